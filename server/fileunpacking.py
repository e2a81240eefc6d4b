"""A tar stream into a directory of a sandbox, entry by entry, through an agent and as its user.

Nothing outside the directory is reached: absolute names and `..` are refused, and no symlink within is followed, neither one that
was there before nor one that the archive has just made. Owners in the archive count for nothing."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from typing import NamedTuple

from remote_env.filemodels import WrittenFile
from remote_env.hashed import Damage, Piece, Unframer
from server.bodies import Body
from server.fileagent import AgentError, Answer, FileAgent
from server.filecontent import Plain, ended, off_loop, unframing, write_all
from server.filemessages import CONTENT_LIMIT, Flag, Operation, ReplyFlag
from server.fileproblems import refusal, shown
from server.files import DIRECTORY_MODE, info
from server.problems import ProblemError
from server.tarstream import BadArchive, Event, Kind, Member, TarReader

_DOING_MOST = 64  # requests to the agent that are under way
_HELD_MOST = 32 << 20  # bytes of what is remembered of directories until the archive's end
_HELD_EACH = 300  # bytes of a directory beside its name


class _Doing(NamedTuple):
    """What the agent was asked for, and has not answered yet."""

    name: bytes
    future: asyncio.Future[Answer]
    is_others: bool = False  # whose it is may be somebody else: then it stays as it is


class TreeUnpacker:
    """One archive on its way into the directory of `handle`, which is `path`. The agent is not waited for entry by entry: it keeps
    their order.

    Args:
        writes_at_once: small files are written by one request each.
    """

    def __init__(self, agent: FileAgent, path: bytes, handle: int, writes_at_once: bool) -> None:
        self._agent = agent
        self._path = path
        self._handle = handle
        self._small = CONTENT_LIMIT if writes_at_once else -1  # bytes of a file that is written by one request
        self._reader = TarReader()
        self._file: Answer | None = None  # being written
        self._content = bytearray()  # of a small one
        self._member = Member(b"", Kind.DIRECTORY, 0, 0)
        self._left = 0  # bytes that the file yet needs
        self._doing: deque[_Doing] = deque()
        self._there: set[bytes] = {b""}  # directories
        self._directories: list[tuple[bytes, Member, asyncio.Future[Answer]]] = []
        self._held = 0  # bytes, of both
        self.changed = False  # something was made

    async def take(self, body: Body, hashed: bool) -> None:
        """Unpack a body. Raises ProblemError; what came before the entry at fault stays."""
        content = unframing(body) if hashed else Plain()
        try:
            async with aclosing(body.batches()) as batches:
                async for batch in batches:
                    await self._pieces(content, batch)
            await self._settle(0)
            content.finish()
            self._reader.finish()
            await self._set_directories()
        except BadArchive as error:
            raise self._refused(ProblemError("invalid", f"the archive: {error}")) from None
        except Damage as damage:
            raise self._refused(ProblemError("damaged", f"the archive: {damage}")) from None
        except ProblemError as problem:
            raise self._refused(problem) from None

    def _refused(self, problem: ProblemError) -> ProblemError:
        if self.changed:
            detail = f"{problem.problem.detail}; other entries have been unpacked"
            problem.problem = problem.problem.model_copy(update={"accepted": "unknown", "detail": detail})
        return problem

    async def close(self) -> None:
        """Let go of what is unfinished."""
        if self._file is not None:
            self._agent.release(self._file.handle)
            os.close(self._file.fd)
            self._file = None
        await ended(*(doing.future for doing in self._doing))

    async def _pieces(self, content: Plain | Unframer, batch: Sequence[Piece]) -> None:
        events = await off_loop(lambda: self._read(content, batch))
        held: list[Piece] = []
        for event in events:
            if isinstance(event, Member):
                await self._write(held)
                held = []
                await self._begin(event)
            else:
                held.append(event)
        await self._write(held)

    def _read(self, content: Plain | Unframer, batch: Sequence[Piece]) -> list[Event]:
        pieces = [piece for data in batch for piece in content.feed(data)]
        content.hash(pieces)
        return [event for piece in pieces for event in self._reader.feed(piece)]

    # ------------------------------------------------------------------------------------------------- entries

    async def _begin(self, member: Member) -> None:
        name = inside(member.name)
        self._member, self._left = member, 0
        if not name and member.kind is not Kind.DIRECTORY:
            raise ProblemError("invalid", f"the archive: {shown(member.name)!r} names no file")
        if not name:
            return  # the directory itself, which is as it is
        self.changed = True
        await self._require(name.rpartition(b"/")[0])
        if member.kind is Kind.FILE:
            self._left = member.size
            if member.size > self._small:
                self._file = await self._create(name)
            if not member.size:
                await self._finish_file()
        elif member.kind is Kind.DIRECTORY:
            made = await self._do(Operation.MAKE_DIRECTORY, name, flags=Flag.EXIST_OK, mode=member.mode | 0o700)
            self._remember(name)
            self._directories.append((name, member, made))
        elif member.kind is Kind.SYMLINK:
            await self._do(Operation.SYMLINK, name, other=member.target, mtime_ns=member.mtime_ns)
        elif member.kind is Kind.LINK:
            await self._do(Operation.LINK, name, other=inside(member.target))
        else:
            raise ProblemError("invalid", f"the archive: {shown(name)} is a device or a FIFO")

    async def _require(self, directory: bytes) -> None:
        """A directory that the archive has said nothing of, and those above it, are made where they are missing."""
        if directory not in self._there:
            await self._require(directory.rpartition(b"/")[0])
            await self._do(Operation.MAKE_DIRECTORY, directory, flags=Flag.EXIST_OK, mode=DIRECTORY_MODE)
            self._remember(directory)

    def _remember(self, directory: bytes) -> None:
        self._there.add(directory)
        self._held += len(directory) + _HELD_EACH
        if self._held > _HELD_MOST:
            raise ProblemError("too_large", "the archive has too many directories; send it in parts")

    async def _do(self, operation: Operation, name: bytes, *, flags: int = 0, mode: int = 0, mtime_ns: int | None = None,
                  other: bytes = b"", content: bytes = b"") -> asyncio.Future[Answer]:  # fmt: skip
        """An operation on an entry, behind those before it. Raises ProblemError for one of those."""
        future = self._agent.begin(
            operation, name, flags=flags | Flag.BENEATH, handle=self._handle, mode=mode, mtime_ns=mtime_ns, other=other, content=content
        )
        self._doing.append(_Doing(name, future))
        await self._settle(_DOING_MOST)
        return future

    async def _create(self, name: bytes) -> Answer:
        try:
            return await self._agent.ask(Operation.CREATE, name, flags=Flag.BENEATH, handle=self._handle)
        except AgentError as error:
            await self._settle(0)  # one before it may be the reason
            raise refusal(error, self._shown(name)) from None

    def _shown(self, name: bytes) -> bytes:
        return self._path.rstrip(b"/") + b"/" + name

    # ------------------------------------------------------------------------------------------------- content

    async def _write(self, pieces: list[Piece]) -> None:
        file = self._file
        if not self._left or not pieces:
            return  # content of what has none here, such as a hard link's
        if file is None:
            for piece in pieces:
                self._content += piece
        else:
            descriptor = file.fd
            try:
                await off_loop(lambda: write_all(descriptor, pieces))
            except OSError as error:
                raise refusal(error, self._shown(inside(self._member.name))) from None
        self._left -= sum(map(len, pieces))
        if not self._left:
            await self._finish_file()

    async def _finish_file(self) -> None:
        member, name = self._member, inside(self._member.name)
        if self._file is None:
            content = bytes(self._content)
            self._content.clear()
            await self._do(Operation.WRITE, name, mode=member.mode, mtime_ns=member.mtime_ns, content=content)
            return
        file, self._file = self._file, None
        os.close(file.fd)
        commit = self._agent.begin(Operation.COMMIT, handle=file.handle, mode=member.mode, mtime_ns=member.mtime_ns)
        self._doing.append(_Doing(name, commit))
        await self._settle(_DOING_MOST)

    async def _settle(self, most: int) -> None:
        """Raises ProblemError for the first that failed."""
        while len(self._doing) > most:
            doing = self._doing[0]
            try:
                await asyncio.shield(doing.future)
            except AgentError as error:
                if not doing.is_others or error.number not in (errno.EPERM, errno.EACCES):
                    raise refusal(error, self._shown(doing.name)) from None
            self._doing.popleft()

    async def _set_directories(self) -> None:
        """Last: a directory may be one that nothing can be written into, and its time changes with each entry."""
        for name, member, made in reversed(self._directories):
            was_there = bool(made.result().flags & ReplyFlag.REPLACED)
            future = self._agent.begin(
                Operation.SET, name, flags=Flag.BENEATH, handle=self._handle, mode=member.mode, mtime_ns=member.mtime_ns
            )
            self._doing.append(_Doing(name, future, was_there))
            await self._settle(_DOING_MOST)
        await self._settle(0)


def inside(name: bytes) -> bytes:
    """A name of an archive as a path below the directory it is unpacked into; "" for that directory. Raises ProblemError."""
    steps = [step for step in name.split(b"/") if step not in (b"", b".")]
    if name.startswith(b"/") or b".." in steps:
        raise ProblemError("invalid", f"the archive: {shown(name)!r} lies outside of the directory that it is unpacked into")
    return b"/".join(steps)


async def unpack(agent: FileAgent, path: bytes, body: Body, *, hashed: bool, parents: bool) -> WrittenFile:
    """Unpack an archive into the directory `path`; with `parents` it is made if need be. Raises ProblemError."""
    try:
        if parents:
            await agent.ask(Operation.MAKE_DIRECTORY, path, flags=Flag.PARENTS | Flag.EXIST_OK, mode=DIRECTORY_MODE)
        handle = (await agent.ask(Operation.DIRECTORY, path, flags=Flag.FOLLOW)).handle
    except AgentError as error:
        raise refusal(error, path) from None
    try:
        unpacker = TreeUnpacker(agent, path, handle, await agent.writes())
        try:
            await unpacker.take(body, hashed)
            found = await agent.ask(Operation.STAT, path, flags=Flag.FOLLOW)
        finally:
            await unpacker.close()
    finally:
        agent.release(handle)
    return WrittenFile(**info(path, found.entry).model_dump())
