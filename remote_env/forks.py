"""What must begin anew in a forked child: sockets that are the parent's, locks that a thread held which is not there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    def after_fork_in_child(self) -> None:
        """Called in the child, where only the forking thread lives on."""


_objects: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_hook_set = False


def tell_in_child(thing: ForkAware) -> None:
    """From now on `thing.after_fork_in_child` is called in each forked child, as long as the thing exists."""
    global _hook_set
    _objects.add(thing)
    if not _hook_set and hasattr(os, "register_at_fork"):
        _hook_set = True
        os.register_at_fork(after_in_child=_tell_all)


def _tell_all() -> None:
    for thing in list(_objects):
        thing.after_fork_in_child()
