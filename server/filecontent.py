"""The content of files on its way through a descriptor: in large pieces, hashed, and off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from remote_env.hashed import Piece, Unframer

PIECE = 1 << 20  # bytes; large enough that handing over to a thread costs nothing beside it
_THREADS = 8

_pool = ThreadPoolExecutor(_THREADS, "files")
Result = TypeVar("Result")


class FileCut(Exception):
    """A file has become shorter while it was read: what was promised of it is not there any more."""


async def off_loop(function: Callable[[], Result]) -> Result:
    """Run it in a thread. Returns only when it is over, cancelled or not: it works on a descriptor that is closed then."""
    job = asyncio.get_running_loop().run_in_executor(_pool, function)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await ended(job)
        raise


async def ended(*jobs: asyncio.Future[Any]) -> None:
    """Wait for their ends, whatever those are and however often this is cancelled meanwhile: a task group that is left cancels its
    tasks again and again, and a descriptor must not be closed while a thread works on it."""
    for job in jobs:
        while not job.done():
            try:
                await asyncio.wait([job])
            except asyncio.CancelledError:
                continue  # whoever waits here is being cancelled already, and says so afterwards
        if not job.cancelled():
            job.exception()  # nobody else will ask for it


def read_part(fd: int, start: int, end: int, digest: hashlib._Hash | None = None) -> bytes:
    """The bytes from `start` up to `end` (exclusive), in a thread that may wait. Raises FileCut, OSError."""
    parts, at = [], start
    while at < end:
        data = os.pread(fd, end - at, at)
        if not data:
            raise FileCut(f"it ends after {at} bytes, not {end}")
        parts.append(data)
        at += len(data)
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    if digest is not None:
        digest.update(whole)
    return whole


async def read_pieces(fd: int, start: int, end: int, digest: hashlib._Hash | None = None) -> AsyncGenerator[bytes, None]:
    """The bytes from `start` up to `end` (exclusive), the next piece being read while one is sent. `digest` is updated with them.
    Raises FileCut, OSError."""

    def piece(at: int) -> bytes:
        data = os.pread(fd, min(PIECE, end - at), at)
        if digest is not None:
            digest.update(data)
        return data

    at = start
    ahead = _begin(piece, start) if start < end else None
    try:
        while ahead is not None:
            data = await ahead
            at += len(data)
            if not data:
                raise FileCut(f"it ends after {at} bytes, not {end}")
            ahead = _begin(piece, at) if at < end else None
            yield data
    finally:
        if ahead is not None:
            await ended(ahead)


def _begin(piece: Callable[[int], bytes], at: int) -> asyncio.Future[bytes]:
    return asyncio.ensure_future(off_loop(lambda: piece(at)))


class Plain:
    """A body that is nothing but content, with the face of `Unframer`."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def feed(self, data: bytes) -> list[Piece]:
        self._digest.update(data)
        self.size += len(data)
        return [data] if data else []

    def finish(self) -> str:
        return self._digest.hexdigest()


class Writer:
    """Writes a body into a descriptor as it comes, while more comes."""

    def __init__(self, fd: int, content: Plain | Unframer) -> None:
        self._fd = fd
        self._content = content
        self._waiting: list[bytes] = []
        self._size = 0
        self._job: asyncio.Future[None] | None = None

    async def feed(self, data: bytes) -> None:
        """Raises OSError: of this piece or of an earlier one."""
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= PIECE:
            await self._flush()

    async def _flush(self) -> None:
        await self.settle()
        waiting, self._waiting, self._size = self._waiting, [], 0
        self._job = asyncio.ensure_future(off_loop(lambda: self._write(waiting)))

    def _write(self, pieces: list[bytes]) -> None:
        for data in pieces:
            for piece in self._content.feed(data):
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]

    async def settle(self) -> None:
        """Wait for what is being written. Raises OSError."""
        job, self._job = self._job, None
        if job is not None:
            try:
                await asyncio.shield(job)
            except asyncio.CancelledError:
                await ended(job)
                raise

    async def finish(self) -> str:
        """Write the rest. Returns the content's SHA-256 in hex. Raises OSError, `remote_env.hashed.Damage`."""
        if self._waiting:
            await self._flush()
        await self.settle()
        return self._content.finish()
