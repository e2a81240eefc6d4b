"""Whether the server goes on, and the requests that wait meanwhile."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Lifetime:
    """One life of the server's process. Used on the event loop only.

    Attributes:
        stopping: no new request is taken any more.
        restart_reason: why the server has to start itself again, None where it does not.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.restart_reason: str | None = None
        self._ending: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Task[object]] = set()

    def on_stop(self, call: Callable[[], None]) -> None:
        """Have `call` called once when the server begins to stop, at once when it has."""
        if self.stopping:
            call()
        else:
            self._ending.append(call)

    def stop(self) -> None:
        """Take no new request, and end every wait now."""
        if not self.stopping:
            self.stopping = True
            for task in self._waiting:
                task.cancel()
            for call in self._ending:
                call()

    def restart(self, reason: str) -> None:
        """Stop, and start again in the same process: what memory holds can no longer be trusted (a failed commit)."""
        self.restart_reason = self.restart_reason or reason
        self.stop()

    async def wait(self, work: Awaitable[T], when_stopped: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives; when the server stops first, `work` is cancelled and `when_stopped()` tells how things
        stand. So a long-poll ends at once with a true answer."""
        task = asyncio.current_task()
        if task is None:
            return await work
        self._waiting.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
        finally:
            self._waiting.discard(task)
        return await when_stopped()
