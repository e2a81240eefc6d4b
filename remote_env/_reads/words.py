"""The word of a command line, and the one way to say that a command is not proven to be a read."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass


class NotARead(Exception):
    """The command is not proven to be a read; the message is the reason. Never leaves `remote_env.idempotency`."""


@dataclass(frozen=True)
class Word:
    """One argument as the program gets it, quotes removed.

    `expands_at` is the index in `text` of the first unquoted glob or brace character; None where the shell takes the word as it
    stands. Whatever such a word expands to begins with `text[:expands_at]`.
    """

    text: str
    expands_at: int | None = None

    @property
    def may_become_option(self) -> bool:
        """True where the shell may put a file name such as `--output=x` in the word's place."""
        return self.expands_at == 0


_OPTION_PREFIX = re.compile(r"-[A-Za-z]|--[A-Za-z][\w-]*=")
_PLAIN_DEVICES = frozenset(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "stdin", "stdout", "stderr"))


def refuse_device(text: str) -> None:
    """Refuse a word that names, by absolute path, something that opening or reading can change.

    Opening `/dev/watchdog` arms it, `/dev/tcp/…` is a connection, a kernel log or another process's pipe is consumed by its reader.

    Raises:
        NotARead: the word, or the value glued to an option in it, names such a file.
    """
    prefix = _OPTION_PREFIX.match(text)
    for candidate in (text, text[prefix.end() :] if prefix else ""):
        if not candidate.startswith("/"):
            continue
        path = "/" + posixpath.normpath(candidate).lstrip("/")
        if path.startswith("/dev/") and path not in _PLAIN_DEVICES and not (path + "/").startswith("/dev/shm/"):
            raise NotARead("a path under /dev: reading a device can change it")
        if path.startswith("/proc/") and re.search(r"/fd(/|$)|/kmsg$", path):
            raise NotARead("a path under /proc whose reading consumes it")
        if path.startswith("/sys/kernel/") and "trace_pipe" in path:
            raise NotARead("a path under /sys whose reading consumes it")
