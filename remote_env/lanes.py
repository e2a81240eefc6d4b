"""Local work beside a transfer: reading, writing and hashing large content in threads, while the connection goes on.

Both faces of the client have the same lanes; they differ in how they wait for one. The other face of `Aside` is `aio.lanes`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Result = TypeVar("Result")

BATCH_BYTES = 1 << 20  # of one piece of work: much more than it costs to hand it to a thread
_AHEAD = 3  # pieces of work that may wait in a lane; what they hold is all the memory that a transfer takes


class Aside(Protocol):
    """How local work is done so that it holds up nobody but its own caller."""

    async def run(self, function: Callable[[], Result]) -> Result:
        """Its result. Returns when it is over, cancelled or not. Raises what it raises."""

    async def wait(self, future: Future[Result]) -> Result:
        """Of a lane. Raises what the work raised."""

    async def ended(self, future: Future[Result]) -> None:
        """Waits until it is over, cancelled or not, whatever became of it."""


class Blocking:
    """For a thread that may wait."""

    async def run(self, function: Callable[[], Result]) -> Result:
        return function()

    async def wait(self, future: Future[Result]) -> Result:
        return future.result()

    async def ended(self, future: Future[Result]) -> None:
        future.exception()


class Lane:
    """A thread, once there is work for it, which does what it is given in order."""

    def __init__(self, aside: Aside) -> None:
        self._aside = aside
        self._thread: ThreadPoolExecutor | None = None
        self._given: deque[Future[None]] = deque()

    @property
    def used(self) -> bool:
        return self._thread is not None

    def begin(self, work: Callable[[], Result]) -> Future[Result]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "remote-env-files")
        try:
            return self._thread.submit(work)
        except RuntimeError:  # the interpreter is on its way out, and starts no thread any more
            return _done(work)

    async def put(self, work: Callable[[], None]) -> None:
        """Waits while there is much to do. Raises what earlier work raised."""
        while len(self._given) >= _AHEAD:
            await self._aside.wait(self._given[0])
            self._given.popleft()
        self._given.append(self.begin(work))

    async def settle(self) -> None:
        """All of it is done. Raises what it raised."""
        while self._given:
            await self._aside.wait(self._given[0])
            self._given.popleft()

    async def close(self) -> None:
        """Nothing of it goes on."""
        for future in self._given:
            future.cancel()
        for future in self._given:
            if not future.cancelled():
                await self._aside.ended(future)
        self._given.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=False)


def _done(work: Callable[[], Result]) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


def batches(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same content in pieces that are worth a thread's while, and a send."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BATCH_BYTES:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
