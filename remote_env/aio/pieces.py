"""A request's body that is sent piece by piece over aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from remote_env.hashed import Piece

Answer = TypeVar("Answer")


class Pieces:
    """A body that is sent piece by piece. aiohttp has a limit for a silent answer, and none for a peer that does not read."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.pieces = pieces
        self._taken = 0
        self._all = False
        self._error: BaseException | None = None  # of the pieces, which aiohttp would tell as one of the connection

    async def send(self) -> AsyncIterator[Piece]:
        pieces = self.pieces.__aiter__() if isinstance(self.pieces, AsyncIterable) else _one_by_one(self.pieces)
        while True:
            try:
                piece = await pieces.__anext__()
            except StopAsyncIteration:
                break
            except BaseException as error:
                self._error = error
                raise
            yield piece
            self._taken += 1
        self._all = True

    async def watch(self, sending: Coroutine[Any, Any, Answer], silence_s: float) -> Answer:
        """The answer. Raises TimeoutError when no piece is taken for `silence_s` seconds."""
        task = asyncio.get_running_loop().create_task(sending)
        try:
            while True:
                taken = self._taken
                await asyncio.wait({task}, timeout=silence_s)
                if self._error is not None and not isinstance(self._error, asyncio.CancelledError):
                    raise self._error
                if task.done():
                    return task.result()
                if self._taken == taken and not self._all:
                    raise asyncio.TimeoutError(f"nothing of the body was taken for {silence_s:.0f} s")
        finally:
            task.cancel()  # nothing where it is done


async def _one_by_one(pieces: Iterable[Piece]) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece
