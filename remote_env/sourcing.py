"""A source as the body of a request: read and hashed ahead of what is being sent, and framed (see `hashed`)."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future

from remote_env.hashed import Piece
from remote_env.lanes import BATCH_BYTES, Aside, Lane, batches
from remote_env.packing import PIECE_BYTES, Source

_AHEAD = 2  # batches


class Framed:
    """The body, once: an iterable for one face of the client, an asynchronous one for the other.

    Args:
        on_sent: hears how many bytes of the content have been taken to be sent.
    """

    def __init__(self, source: Source, aside: Aside, on_sent: Callable[[int], None] = lambda size: None) -> None:
        self.sent = 0  # bytes of the content
        self._source = source
        self._aside = aside
        self._on_sent = on_sent
        self._pieces = source.pieces()
        self._batches = batches(self._pieces)
        self._digest = hashlib.sha256()
        self._lane = Lane(aside)
        self._ahead: deque[Future[bytes]] = deque()

    def _next(self) -> bytes:
        """The next batch, empty at the end. Raises what the source raises."""
        batch = next(self._batches, b"")
        self._digest.update(batch)
        return batch

    def _taken(self, batch: bytes) -> Iterator[Piece]:
        """What is sent at once must not be large, since it must be through within the longest silence."""
        view = memoryview(batch)
        for start in range(0, len(batch), PIECE_BYTES):
            part = view[start : start + PIECE_BYTES]
            yield part
            self.sent += len(part)
            self._on_sent(self.sent)

    def _look_ahead(self) -> Future[bytes]:
        """The next batch. It stays in the queue until it has come: whoever is interrupted meanwhile has it awaited by `close`."""
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._lane.begin(self._next))
        return self._ahead[0]

    def _come(self, batch: bytes) -> bytes:
        self._ahead.popleft()
        return batch

    def __iter__(self) -> Iterator[Piece]:
        is_short = self._source.size is not None and self._source.size <= BATCH_BYTES
        while batch := self._next() if is_short else self._come(self._look_ahead().result()):
            yield from self._taken(batch)
        yield self._digest.digest()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while batch := self._come(await self._aside.wait(self._look_ahead())):
            for part in self._taken(batch):
                yield part
        yield self._digest.digest()

    async def close(self) -> None:
        """The source is not read any more."""
        for future in self._ahead:
            future.cancel()
        for future in self._ahead:
            if not future.cancelled():
                await self._aside.ended(future)
        await self._lane.close()
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
