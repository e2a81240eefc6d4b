"""Where Inspect's coroutines meet the client's threads. It may run on asyncio or on trio: anyio knows both."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from remote_env.errors import RemoteEnvError

THREADS = 1024  # calls at once, as many as a server runs executions: sandboxes × the calls that each has under way
FAREWELL_S = 10.0  # that a cancelled call gets to undo what it did

T = TypeVar("T")
log = logging.getLogger("remote_env")

# Of each event loop. Farewells have threads of their own: they must not wait for those that they are to end.
_calls: RunVar[anyio.CapacityLimiter] = RunVar("remote_env_calls")
_farewells: RunVar[anyio.CapacityLimiter] = RunVar("remote_env_farewells")


class Cancellation:
    """Tells a call in a thread that nobody waits for it any more, and undoes what it has done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested = False
        self._undo: Callable[[], object] | None = None

    @property
    def requested(self) -> bool:
        return self._requested

    def undo_with(self, undo: Callable[[], object]) -> None:
        """What is to be done when the call is cancelled from now on; at once where it has been."""
        with self._lock:
            if not self._requested:
                self._undo = undo
                return
        _carefully(undo)

    def request(self) -> None:
        with self._lock:
            self._requested = True
            undo, self._undo = self._undo, None
        if undo is not None:
            _carefully(undo)


async def in_thread(call: Callable[[Cancellation], T]) -> T:
    """Runs the call in a thread. When the caller is cancelled, it is not waited for: `undo_with` says what happens then."""
    cancellation = Cancellation()
    try:
        return await anyio.to_thread.run_sync(call, cancellation, abandon_on_cancel=True, limiter=_limiter(_calls))
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(FAREWELL_S, shield=True):
            await anyio.to_thread.run_sync(cancellation.request, abandon_on_cancel=True, limiter=_limiter(_farewells))
        raise


def _limiter(variable: RunVar[anyio.CapacityLimiter]) -> anyio.CapacityLimiter:
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        variable.set(limiter)
        return limiter


def _carefully(undo: Callable[[], object]) -> None:
    try:
        undo()
    except RemoteEnvError as error:
        log.warning("a cancelled call could not be undone: %s", error)
