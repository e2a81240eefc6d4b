"""The content of files on its way through a descriptor: in large pieces, hashed, and off the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from remote_env.filemodels import DIGEST_BYTES
from remote_env.hashed import Piece, Unframer
from server.bodies import PIECE, Body

_THREADS = 16
_WORTH_TWO_THREADS = 256 << 10  # bytes

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
    ahead = _begin(lambda: piece(start)) if start < end else None
    try:
        while ahead is not None:
            data = await asyncio.shield(ahead)
            at += len(data)
            if not data:
                raise FileCut(f"it ends after {at} bytes, not {end}")
            ahead = _begin(partial(piece, at)) if at < end else None
            yield data
    finally:
        if ahead is not None:
            await ended(ahead)


def _begin(function: Callable[[], Result]) -> asyncio.Future[Result]:
    """In a thread; it cannot be cancelled once it runs: see `ended`."""
    return asyncio.get_running_loop().run_in_executor(_pool, function)


def unframing(body: Body) -> Unframer:
    """For a body that is framed; how long its content is was said with the length of the body."""
    return Unframer(None if body.size is None else max(0, body.size - DIGEST_BYTES))


class Plain:
    """A body that is nothing but content, with the face of `Unframer`."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def feed(self, data: Piece) -> list[Piece]:
        return [data] if len(data) else []

    def hash(self, content: Iterable[Piece]) -> None:
        for piece in content:
            self._digest.update(piece)

    def finish(self) -> str:
        return self._digest.hexdigest()


def write_all(fd: int, content: Iterable[Piece]) -> None:
    """In a thread that may wait. Raises OSError."""
    for piece in content:
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view) :]


class Writer:
    """Writes a body into a descriptor as it comes: it is written in one thread and hashed in another, while more comes."""

    def __init__(self, fd: int, content: Plain | Unframer) -> None:
        self._fd = fd
        self._content = content
        self._jobs: tuple[asyncio.Future[None], ...] = ()

    async def feed(self, batch: Sequence[Piece]) -> None:
        """The batch has to stay what it is until the next `feed`, or `settle`. Raises OSError: of this batch or of an earlier one."""
        await self.settle()
        content = [piece for data in batch for piece in self._content.feed(data)]
        if sum(map(len, content)) >= _WORTH_TWO_THREADS:
            self._jobs = (_begin(lambda: self._content.hash(content)), _begin(lambda: write_all(self._fd, content)))
        elif content:
            self._jobs = (_begin(lambda: self._hash_and_write(content)),)

    def _hash_and_write(self, content: Sequence[Piece]) -> None:
        self._content.hash(content)
        write_all(self._fd, content)

    async def settle(self) -> None:
        """Wait for what is being written. Raises OSError."""
        jobs, self._jobs = self._jobs, ()
        try:
            for job in jobs:
                await asyncio.shield(job)
        finally:
            await ended(*jobs)

    async def finish(self) -> str:
        """Returns the content's SHA-256 in hex. Raises OSError, `remote_env.hashed.Damage`."""
        await self.settle()
        return self._content.finish()
