"""`lanes` for asyncio: local work in threads, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from remote_env.forks import tell_in_child

Result = TypeVar("Result")

_THREADS = 8


class OffLoop:
    """See `lanes.Aside`."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        tell_in_child(self)

    def after_fork_in_child(self) -> None:
        """The parent's threads are not here, and what is given to them would never be done."""
        self._threads = ThreadPoolExecutor(_THREADS, "remote-env-aside")  # not the loop's own, which name lookups wait for

    async def run(self, function: Callable[[], Result]) -> Result:
        future = self._threads.submit(function)
        try:
            return await self.wait(future)
        except asyncio.CancelledError:
            future.cancel()
            await self.ended(future)
            raise

    async def wait(self, future: Future[Result]) -> Result:
        return await asyncio.shield(asyncio.wrap_future(future))

    async def ended(self, future: Future[Result]) -> None:
        """Whoever cancels, cancels the caller, which hears of it behind this."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(over.set))
        while not future.done():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        try:
            future.exception()  # nobody else will ask for it
        except CancelledError:
            return
