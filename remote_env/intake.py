"""A framed answer on its way in: hashed in one thread and written in another, while more comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from typing_extensions import Self

from remote_env.hashed import Piece, Unframer
from remote_env.lanes import BATCH_BYTES, Aside, Lane

Write = Callable[[Piece], object]


class Intake:
    """Args:
    apart: what writes may be called in a thread of its own; else it is called by whoever calls here.
    """

    def __init__(self, unframer: Unframer, aside: Aside, *, apart: bool) -> None:
        self._unframer = unframer
        self._aside = aside
        self._apart = apart
        self._hashing, self._writing = Lane(aside), Lane(aside)
        self._content: list[Piece] = []  # not hashed yet
        self._unwritten: list[tuple[Write, Piece]] = []
        self._size = 0

    async def take(self, data: bytes, write: Write) -> None:
        """Content goes to `write`, perhaps later. Raises what an earlier write raised."""
        for piece in self._unframer.feed(data):
            self._content.append(piece)
            self._size += len(piece)
            self._unwritten.append((write, piece))
        if not self._apart:
            self._write(self._unwritten)
            self._unwritten = []
        if self._size >= BATCH_BYTES:
            content, unwritten = self._content, self._unwritten
            self._content, self._unwritten, self._size = [], [], 0
            await self._hashing.put(partial(self._unframer.hash, content))
            if unwritten:
                await self._writing.put(partial(self._write, unwritten))

    @staticmethod
    def _write(pieces: Sequence[tuple[Write, Piece]]) -> None:
        for write, piece in pieces:
            write(piece)

    async def finish(self) -> str:
        """All of it is written. Its SHA-256 in hex. Raises Damage, CutShort, what writing raised."""
        await self._hashing.settle()
        await self._writing.settle()
        self._unframer.hash(self._content)
        if self._unwritten:
            await self._aside.run(partial(self._write, self._unwritten))
        return self._unframer.finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._writing.close()
        await self._hashing.close()
