"""Waiting for something to happen, for so many seconds at most: what every long-poll does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class WaitRoom:
    """Everybody who waits, so that a stopping server can send them all home at once."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed = False

    def close(self) -> None:
        self.closed = True
        for future in list(self._waiting):
            _finish(future)

    async def wait(self, places: list[asyncio.Future[None]], seconds: float) -> None:
        if self.closed or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(seconds, _finish, future)
        self._waiting.add(future)
        places.append(future)
        try:
            await future
        finally:
            timer.cancel()
            self._waiting.discard(future)
            if future in places:
                places.remove(future)


class Bell:
    """Rings for those who wait at that moment."""

    __slots__ = ("_places", "_room")

    def __init__(self, room: WaitRoom) -> None:
        self._room = room
        self._places: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        if self._places:
            places, self._places = self._places, []
            for future in places:
                _finish(future)

    async def wait(self, seconds: float) -> None:
        """Return at the next ring, after so many seconds, or when the room closes."""
        await self._room.wait(self._places, seconds)

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Return as soon as `done` holds, which a ring may be the time to look at, after so many seconds, or when the room closes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not done() and not self._room.closed and (left := deadline - loop.time()) > 0:
            await self.wait(left)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
