"""A tar stream into a directory of a sandbox, entry by entry, through an agent and as its user.

Nothing outside the directory is reached: absolute names and `..` are refused, and no symlink within is followed, neither one that
was there before nor one that the archive has just made. Owners in the archive count for nothing."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncIterator

from remote_env.filemodels import WrittenFile
from remote_env.hashed import Damage, Piece, Unframer
from server.fileagent import AgentError, Answer, FileAgent
from server.filecontent import PIECE, Plain, off_loop
from server.filemessages import Flag, Operation, ReplyFlag
from server.fileproblems import refusal, shown
from server.files import DIRECTORY_MODE, info
from server.problems import ProblemError
from server.tarstream import BadArchive, Kind, Member, TarReader

_FINISHING_MOST = 32  # files that are complete but whose agent has not said so yet


class TreeUnpacker:
    """One archive on its way into the directory of `handle`, which is `path`."""

    def __init__(self, agent: FileAgent, path: bytes, handle: int) -> None:
        self._agent = agent
        self._path = path
        self._handle = handle
        self._reader = TarReader()
        self._file: Answer | None = None  # being written
        self._member = Member(b"", Kind.DIRECTORY, 0, 0)
        self._left = 0  # bytes that the file yet needs
        self._finishing: deque[tuple[bytes, asyncio.Task[Answer]]] = deque()
        self._directories: list[tuple[bytes, Member, bool]] = []  # with whether it was there before
        self.changed = False  # something was made

    async def take(self, body: AsyncIterator[bytes], hashed: bool) -> None:
        """Unpack a body. Raises ProblemError; what came before the entry at fault stays."""
        content = Unframer() if hashed else Plain()
        waiting: list[bytes] = []
        size = 0
        try:
            async for piece in body:
                waiting.append(piece)
                size += len(piece)
                if size >= PIECE:
                    await self._pieces(content, waiting)
                    waiting, size = [], 0
            await self._pieces(content, waiting)
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
            detail = f"{problem.problem.detail}; entries before it have been unpacked"
            problem.problem = problem.problem.model_copy(update={"accepted": "unknown", "detail": detail})
        return problem

    async def close(self) -> None:
        """Let go of what is unfinished."""
        if self._file is not None:
            self._agent.release(self._file.handle)
            os.close(self._file.fd)
            self._file = None
        if self._finishing:
            await asyncio.gather(*(task for _, task in self._finishing), return_exceptions=True)

    async def _pieces(self, content: Plain | Unframer, pieces: list[bytes]) -> None:
        events = await off_loop(lambda: [event for data in pieces for piece in content.feed(data) for event in self._reader.feed(piece)])
        held: list[Piece] = []
        for event in events:
            if isinstance(event, Member):
                await self._write(held)
                held = []
                await self._begin(event)
            else:
                held.append(event)
        await self._write(held)

    # ------------------------------------------------------------------------------------------------- entries

    async def _begin(self, member: Member) -> None:
        name = inside(member.name)
        self._member, self._left = member, 0
        if not name and member.kind is not Kind.DIRECTORY:
            raise ProblemError("invalid", f"the archive: {shown(member.name)!r} names no file")
        if not name:
            return  # the directory itself, which is as it is
        self.changed = True
        if member.kind is Kind.FILE:
            self._file = await self._do(Operation.CREATE, name)
            self._left = member.size
            if not member.size:
                await self._finish_file()
        elif member.kind is Kind.DIRECTORY:
            made = await self._do(Operation.MAKE_DIRECTORY, name, flags=Flag.EXIST_OK, mode=member.mode | 0o700)
            self._directories.append((name, member, bool(made.flags & ReplyFlag.REPLACED)))
        elif member.kind is Kind.SYMLINK:
            await self._do(Operation.SYMLINK, name, other=member.target, mtime_ns=member.mtime_ns)
        elif member.kind is Kind.LINK:
            await self._settle(0)
            await self._do(Operation.LINK, name, other=inside(member.target))
        else:
            raise ProblemError("invalid", f"the archive: {shown(name)} is a device or a FIFO")

    async def _do(self, operation: Operation, name: bytes, *, flags: int = 0, mode: int = 0, mtime_ns: int | None = None,
                  other: bytes = b"") -> Answer:  # fmt: skip
        """An operation on an entry; the directories above it are made where they are missing."""
        for with_parents in (False, True):
            try:
                if with_parents:
                    await self._make_parents(name)
                return await self._agent.ask(
                    operation, name, flags=flags | Flag.BENEATH, handle=self._handle, mode=mode, mtime_ns=mtime_ns, other=other
                )
            except AgentError as error:
                if with_parents or error.number != errno.ENOENT or b"/" not in name:
                    raise refusal(error, self._shown(name)) from None
        raise AssertionError("not reached")

    async def _make_parents(self, name: bytes) -> None:
        steps = name.split(b"/")[:-1]
        for count in range(1, len(steps) + 1):
            await self._agent.ask(
                Operation.MAKE_DIRECTORY, b"/".join(steps[:count]), flags=Flag.BENEATH | Flag.EXIST_OK, handle=self._handle,
                mode=DIRECTORY_MODE,
            )  # fmt: skip

    def _shown(self, name: bytes) -> bytes:
        return self._path.rstrip(b"/") + b"/" + name

    # ------------------------------------------------------------------------------------------------- content

    async def _write(self, pieces: list[Piece]) -> None:
        file, views = self._file, [memoryview(piece) for piece in pieces]
        if file is None or not views:
            return  # content of what has none here, such as a hard link's

        def write() -> None:
            for view in views:
                while view:
                    view = view[os.write(file.fd, view) :]

        try:
            await off_loop(write)
        except OSError as error:
            raise refusal(error, self._shown(inside(self._member.name))) from None
        self._left -= sum(map(len, views))
        if not self._left:
            await self._finish_file()

    async def _finish_file(self) -> None:
        """Its name is given to it while the next one is begun: the agent keeps the order."""
        file, self._file = self._file, None
        assert file is not None
        os.close(file.fd)
        commit = self._agent.ask(Operation.COMMIT, handle=file.handle, mode=self._member.mode, mtime_ns=self._member.mtime_ns)
        self._finishing.append((inside(self._member.name), asyncio.create_task(commit)))
        await self._settle(_FINISHING_MOST)

    async def _settle(self, most: int) -> None:
        while len(self._finishing) > most:
            name, task = self._finishing[0]
            try:
                await task
            except AgentError as error:
                raise refusal(error, self._shown(name)) from None
            finally:
                self._finishing.popleft()

    async def _set_directories(self) -> None:
        """Last: a directory may be one that nothing can be written into, and its time changes with each entry."""
        for name, member, was_there in reversed(self._directories):
            try:
                await self._agent.ask(
                    Operation.SET, name, flags=Flag.BENEATH, handle=self._handle, mode=member.mode, mtime_ns=member.mtime_ns
                )
            except AgentError as error:
                if not was_there or error.number not in (errno.EPERM, errno.EACCES):  # somebody else's stays as it is
                    raise refusal(error, self._shown(name)) from None


def inside(name: bytes) -> bytes:
    """A name of an archive as a path below the directory it is unpacked into; "" for that directory. Raises ProblemError."""
    steps = [step for step in name.split(b"/") if step not in (b"", b".")]
    if name.startswith(b"/") or b".." in steps:
        raise ProblemError("invalid", f"the archive: {shown(name)!r} lies outside of the directory that it is unpacked into")
    return b"/".join(steps)


async def unpack(agent: FileAgent, path: bytes, body: AsyncIterator[bytes], *, hashed: bool, parents: bool) -> WrittenFile:
    """Unpack an archive into the directory `path`; with `parents` it is made if need be. Raises ProblemError."""
    try:
        if parents:
            await agent.ask(Operation.MAKE_DIRECTORY, path, flags=Flag.PARENTS | Flag.EXIST_OK, mode=DIRECTORY_MODE)
        handle = (await agent.ask(Operation.DIRECTORY, path, flags=Flag.FOLLOW)).handle
    except AgentError as error:
        raise refusal(error, path) from None
    unpacker = TreeUnpacker(agent, path, handle)
    try:
        await unpacker.take(body, hashed)
        found = await agent.ask(Operation.STAT, path, flags=Flag.FOLLOW)
    finally:
        await unpacker.close()
        agent.release(handle)
    return WrittenFile(**info(path, found.entry).model_dump())
