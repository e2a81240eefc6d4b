"""A tree of a sandbox as a tar stream (pax), in constant memory: names relative to the tree's parent, modes, owners and symlinks
kept, hard links as copies. Nothing of it is stored here.

Devices, FIFOs, sockets and what the user may not read are left out; the tree's own directory then comes once more at the end, with
a pax record that tells of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import posixpath
import stat
import tarfile
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

from server.fileagent import AgentError, Answer, FileAgent
from server.filecontent import FileCut, ended, off_loop, read_pieces
from server.filemessages import Entry, Flag, Operation, ReplyFlag
from server.fileproblems import code_of, refusal, shown
from server.files import entries_of

LEFT_OUT = "REMOTE_ENV.left_out"
"""The pax record: JSON, a list of {path, code}, codes as of any refusal; the first of them, and the last names how many there were."""
_LEFT_OUT_SHOWN = 100
_SMALL = 128 << 10  # bytes; smaller files are read several at a time
_TOGETHER = 32
_MOST_ENTRIES = 1 << 40  # of a directory: there is no bound, they are sent as they come
_END = bytes(2 * tarfile.BLOCKSIZE)


class TreePacker:
    """One tree, or one file, on its way out.

    Args:
        digest: updated with all that comes out, if given.
    """

    def __init__(self, agent: FileAgent, path: bytes, digest: hashlib._Hash | None) -> None:
        self._agent = agent
        self._path = path
        self._digest = digest
        self._name = posixpath.basename(posixpath.normpath(path)) or b"."
        self._handle = 0
        self._left_out: list[dict[str, str]] = []
        self._left_out_count = 0

    async def begin(self) -> None:
        """Find it. Raises ProblemError."""
        try:
            self._root = (await self._agent.ask(Operation.STAT, self._path, flags=Flag.FOLLOW)).entry
            if self._root.is_directory:
                self._handle = (await self._agent.ask(Operation.DIRECTORY, self._path, flags=Flag.FOLLOW)).handle
            elif not stat.S_ISREG(self._root.mode):
                raise AgentError(errno.ENOTDIR)
        except AgentError as error:
            raise refusal(error, self._path) from None

    def close(self) -> None:
        if self._handle:
            self._agent.release(self._handle)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The archive. Raises AgentError, FileCut, OSError where it cannot be completed."""
        if self._handle:
            async with aclosing(self._directories()) as pieces:
                async for piece in pieces:
                    yield piece
        else:
            opened = await self._agent.ask(Operation.OPEN, self._path, flags=Flag.FOLLOW)
            async with aclosing(self._large(self._name, opened)) as pieces:
                async for piece in pieces:
                    yield piece
        yield self._hashed((self._tale() if self._left_out_count else b"") + _END)

    def _hashed(self, data: bytes) -> bytes:
        if self._digest is not None:
            self._digest.update(data)
        return data

    def _tale(self) -> bytes:
        header = _header(self._name, self._root, 0)
        records = self._left_out
        if self._left_out_count > len(records):
            records = [*records, {"path": f"{self._left_out_count - len(records)} more", "code": "left_out"}]
        header.pax_headers = {LEFT_OUT: json.dumps(records)}
        return _encoded(header)

    def _leave_out(self, name: bytes, code: str) -> None:
        self._left_out_count += 1
        if len(self._left_out) < _LEFT_OUT_SHOWN:
            self._left_out.append({"path": shown(name), "code": code})

    # ------------------------------------------------------------------------------------------------ walking

    async def _directories(self) -> AsyncGenerator[bytes, None]:
        """Each directory with what is in it, but for its directories, which follow. Of those that are yet to come the names
        are held, of one branch at a time."""
        branches: list[Iterator[tuple[bytes, Entry]]] = [iter([(b"", self._root)])]
        while branches:
            below, entry = next(branches[-1], (None, None))
            if below is None or entry is None:
                branches.pop()
                continue
            inner: list[tuple[bytes, Entry]] = []
            yield self._hashed(_encoded(_header(self._named(below), entry, 0)))
            async with aclosing(self._contents(below, inner)) as pieces:
                async for piece in pieces:
                    yield piece
            branches.append(iter(inner))

    def _named(self, below: bytes) -> bytes:
        return self._name + b"/" + below if below else self._name

    async def _contents(self, below: bytes, directories: list[tuple[bytes, Entry]]) -> AsyncGenerator[bytes, None]:
        try:
            opened = await self._agent.ask(Operation.DIRECTORY, below, flags=Flag.BENEATH, handle=self._handle)
        except AgentError as error:
            self._refused(below, error)
            return
        try:
            if opened.flags & ReplyFlag.MADE_UP and below:
                return  # /proc and its like are not part of a tree that merely contains them
            batch: list[tuple[bytes, Entry]] = []
            async for entry in entries_of(self._agent, opened.handle, _MOST_ENTRIES):
                inside = below + b"/" + entry.name if below else entry.name
                if entry.is_directory:
                    directories.append((inside, entry))
                elif stat.S_ISREG(entry.mode) and entry.size > _SMALL:
                    async with aclosing(self._alone(inside)) as pieces:
                        async for piece in pieces:
                            yield piece
                elif stat.S_ISREG(entry.mode) or stat.S_ISLNK(entry.mode):
                    batch.append((inside, entry))
                    if len(batch) == _TOGETHER:
                        async with aclosing(self._together(batch)) as pieces:
                            async for piece in pieces:
                                yield piece
                        batch = []
                else:
                    self._leave_out(self._named(inside), "not_regular")
            if batch:
                async with aclosing(self._together(batch)) as pieces:
                    async for piece in pieces:
                        yield piece
        except AgentError as error:
            self._refused(below, error)
        finally:
            self._agent.release(opened.handle)

    def _refused(self, below: bytes, error: AgentError) -> None:
        if error.number != errno.ENOENT:  # else it went away meanwhile
            self._leave_out(self._named(below), code_of(error.number))

    # -------------------------------------------------------------------------------------------------- files

    async def _alone(self, below: bytes) -> AsyncGenerator[bytes, None]:
        try:
            opened = await self._agent.ask(Operation.OPEN, below, flags=Flag.BENEATH, handle=self._handle)
        except AgentError as error:
            self._refused(below, error)
            return
        async with aclosing(self._large(self._named(below), opened)) as pieces:
            async for piece in pieces:
                yield piece

    async def _large(self, name: bytes, opened: Answer) -> AsyncGenerator[bytes, None]:
        try:
            size = os.fstat(opened.fd).st_size
            yield self._hashed(_encoded(_header(name, opened.entry, size)))
            async with aclosing(read_pieces(opened.fd, 0, size, self._digest)) as pieces:
                async for piece in pieces:
                    yield piece
            yield self._hashed(bytes(-size % tarfile.BLOCKSIZE))
        finally:
            os.close(opened.fd)

    async def _together(self, batch: list[tuple[bytes, Entry]]) -> AsyncGenerator[bytes, None]:
        """Small files and symlinks: one wait for all. What has grown large since it was listed comes by itself."""
        wanted = [below for below, entry in batch if stat.S_ISREG(entry.mode)]
        opened = await self._open_all(wanted)
        try:
            for below in wanted:
                found = opened[below]
                if isinstance(found, AgentError):
                    self._refused(below, found)
            sizes = {below: os.fstat(found.fd).st_size for below, found in opened.items() if isinstance(found, Answer)}
            grown = [below for below, size in sizes.items() if size > _SMALL]
            small = [each for each in batch if each[0] not in grown]
            yield await off_loop(lambda: self._hashed(b"".join(self._packed(small, opened, sizes))))
            for below in grown:
                found = opened.pop(below)
                assert isinstance(found, Answer)
                async with aclosing(self._large(self._named(below), found)) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            _close_all(opened.values())

    async def _open_all(self, wanted: list[bytes]) -> dict[bytes, Answer | AgentError]:
        tasks = {below: asyncio.create_task(self._open(below)) for below in wanted}
        try:
            return {below: await task for below, task in tasks.items()}
        except BaseException:
            for task in tasks.values():
                task.cancel()
            await ended(*tasks.values())
            _close_all(task.result() for task in tasks.values() if not task.cancelled() and task.exception() is None)
            raise

    async def _open(self, below: bytes) -> Answer | AgentError:
        try:
            return await self._agent.ask(Operation.OPEN, below, flags=Flag.BENEATH, handle=self._handle)
        except AgentError as error:
            return error

    def _packed(
        self, batch: list[tuple[bytes, Entry]], opened: dict[bytes, Answer | AgentError], sizes: dict[bytes, int]
    ) -> Iterator[bytes]:
        for below, entry in batch:
            found = opened.get(below)
            if isinstance(found, Answer):
                size = sizes[below]
                content = os.pread(found.fd, size, 0)
                if len(content) != size:
                    raise FileCut(f"{shown(below)} became shorter")
                yield _encoded(_header(self._named(below), found.entry, size))
                yield content
                yield bytes(-size % tarfile.BLOCKSIZE)
            elif found is None:
                yield _encoded(_header(self._named(below), entry, 0))


def _close_all(opened: Iterable[Answer | AgentError]) -> None:
    for each in opened:
        if isinstance(each, Answer):
            os.close(each.fd)


def _header(name: bytes, entry: Entry, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(os.fsdecode(name))
    header.mode, header.uid, header.gid, header.mtime = stat.S_IMODE(entry.mode), entry.uid, entry.gid, entry.mtime_ns // 1_000_000_000
    if entry.is_directory:
        header.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(entry.mode):
        header.type, header.linkname = tarfile.SYMTYPE, os.fsdecode(entry.target)
    header.size = size
    return header


def _encoded(header: tarfile.TarInfo) -> bytes:
    return header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
