"""The files of one sandbox, as one of its users: what the routes of /v1/sandboxes/{id}/files do.

Everything is found and opened by a file agent inside the sandbox; contents go through the descriptors that it passes."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from remote_env.filemodels import FileInfo, FileType, RemovedFile, WrittenFile
from remote_env.hashed import Damage, Piece
from server.bodies import PIECE, Body
from server.fileagent import AgentError, FileAgent
from server.filecontent import Plain, Writer, off_loop, read_part, read_pieces, unframing
from server.filemessages import CONTENT_LIMIT, Entry, EntryFlag, Flag, Operation, ReplyFlag
from server.fileproblems import refusal, shown
from server.problems import ProblemError

LISTED_MOST = 100_000  # entries in one answer
FILE_MODE, DIRECTORY_MODE = 0o644, 0o755  # of what is new
_EMPTIED_MOST = 100  # times that a directory which others write into is looked through again


@dataclass(frozen=True)
class OpenFile:
    """A regular file to read from. `fd` is open until `close`.

    Attributes:
        size: bytes.
        etag: changes when the file does; None where its content is made up by the kernel at every reading.
    """

    fd: int
    size: int
    mode: int
    mtime_ns: int
    etag: str | None

    def pieces(self, start: int, end: int, digest: hashlib._Hash | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`; see `filecontent.read_pieces`."""
        return read_pieces(self.fd, start, end, digest)

    async def part(self, start: int, end: int, digest: hashlib._Hash | None = None) -> bytes:
        """The same at once, for few bytes."""
        return await off_loop(lambda: read_part(self.fd, start, end, digest))

    def close(self) -> None:
        os.close(self.fd)


class SandboxFiles:
    """What can be done through one agent. Paths are absolute; ProblemError is raised for what the sandbox refuses."""

    def __init__(self, agent: FileAgent, workdir: str = "/") -> None:
        self.agent = agent
        self._workdir = os.fsencode(workdir)

    def absolute(self, path: bytes) -> bytes:
        """`path` itself, or below the sandbox's working directory. Raises ProblemError `invalid`."""
        if not path or b"\0" in path:
            raise ProblemError("invalid", "path: empty, or with a NUL byte in it")
        return path if path.startswith(b"/") else self._workdir.rstrip(b"/") + b"/" + path

    async def stat(self, path: bytes, follow: bool = True) -> FileInfo:
        """The file, or with `follow` the one that a symlink leads to."""
        try:
            answer = await self.agent.ask(Operation.STAT, path, flags=Flag.FOLLOW if follow else 0)
        except AgentError as error:
            raise refusal(error, path) from None
        return info(path, answer.entry)

    async def listed(self, path: bytes) -> list[FileInfo]:
        """What is in a directory, sorted by name. `too_large` beyond LISTED_MOST."""
        agent = self.agent
        try:
            handle = (await agent.ask(Operation.DIRECTORY, path, flags=Flag.FOLLOW)).handle
            try:
                entries = [entry async for entry in entries_of(agent, handle)]
            finally:
                agent.release(handle)
        except AgentError as error:
            raise refusal(error, path) from None
        base = path.rstrip(b"/") + b"/"
        entries.sort(key=lambda entry: entry.name)
        # So many take a second: others' requests are not to wait for it.
        return await off_loop(lambda: [info(base + entry.name, entry) for entry in entries])

    async def open(self, path: bytes) -> OpenFile:
        """A regular file to read from; the caller closes it."""
        try:
            answer = await self.agent.ask(Operation.OPEN, path, flags=Flag.FOLLOW)
        except AgentError as error:
            raise refusal(error, path) from None
        status, entry = os.fstat(answer.fd), answer.entry
        made_up = bool(answer.flags & ReplyFlag.MADE_UP) and status.st_size > 0
        return OpenFile(
            answer.fd, status.st_size, stat.S_IMODE(entry.mode), entry.mtime_ns, None if made_up else _etag(entry, status.st_size)
        )

    async def write(
        self, path: bytes, body: Body, *, hashed: bool, mode: int | None, parents: bool
    ) -> tuple[WrittenFile, bool]:  # fmt: skip
        """Put a file where `path` leads to, whole or not at all.

        Args:
            hashed: the body ends with its content's sha256; if it is another one the file stays as it was (`damaged`).
            mode: None keeps that of a file that is replaced.

        Returns what is there now, and whether something was there before.
        """
        agent = self.agent
        if body.size is not None and body.size <= CONTENT_LIMIT and await agent.writes():
            return await self._write_small(path, body, hashed, mode, parents)
        try:
            created = await agent.ask(Operation.CREATE, path, flags=Flag.FOLLOW | (Flag.PARENTS if parents else 0))
        except AgentError as error:
            raise refusal(error, path) from None
        finished = False
        try:
            size = body.size
            if size is not None and size > PIECE:
                await off_loop(lambda: _check_room(created.fd, size))
            writer = Writer(created.fd, unframing(body) if hashed else Plain())
            try:
                async with aclosing(body.batches()) as batches:
                    async for batch in batches:
                        await writer.feed(batch)
                sha256 = await writer.finish()
            finally:
                await writer.settle()
            finished = True
            done = await agent.ask(
                Operation.COMMIT, handle=created.handle, mode=FILE_MODE if mode is None else mode,
                flags=Flag.KEEP_MODE if mode is None else 0,
            )  # fmt: skip
        except Damage as damage:
            raise _damaged(damage, path) from None
        except (AgentError, OSError) as error:
            raise refusal(error, path) from None
        finally:
            if not finished:
                agent.release(created.handle)
            os.close(created.fd)
        return WrittenFile(**info(path, done.entry).model_dump(), sha256=sha256), bool(done.flags & ReplyFlag.REPLACED)

    async def _write_small(
        self, path: bytes, body: Body, hashed: bool, mode: int | None, parents: bool
    ) -> tuple[WrittenFile, bool]:  # fmt: skip
        """By one request to the agent."""
        unframer = unframing(body) if hashed else Plain()
        content: list[Piece] = []
        async with aclosing(body.batches()) as batches:
            async for batch in batches:
                content += [piece for data in batch for piece in unframer.feed(data)]
        unframer.hash(content)
        try:
            sha256 = unframer.finish()
            done = await self.agent.begin(
                Operation.WRITE, path, mode=FILE_MODE if mode is None else mode, content=b"".join(content),
                flags=Flag.FOLLOW | (Flag.PARENTS if parents else 0) | (Flag.KEEP_MODE if mode is None else 0),
            )  # fmt: skip
        except Damage as damage:
            raise _damaged(damage, path) from None
        except AgentError as error:
            raise refusal(error, path) from None
        return WrittenFile(**info(path, done.entry).model_dump(), sha256=sha256), bool(done.flags & ReplyFlag.REPLACED)

    async def make_directory(self, path: bytes, *, parents: bool, mode: int | None) -> tuple[FileInfo, bool]:
        """Make a directory; with `parents` those above it too, and one that is there will do. Returns it, and whether it was there."""
        try:
            answer = await self.agent.ask(
                Operation.MAKE_DIRECTORY, path, flags=Flag.PARENTS | Flag.EXIST_OK if parents else 0,
                mode=DIRECTORY_MODE if mode is None else mode,
            )  # fmt: skip
        except AgentError as error:
            raise refusal(error, path) from None
        return info(path, answer.entry), bool(answer.flags & ReplyFlag.REPLACED)

    async def remove(self, path: bytes, recursive: bool) -> RemovedFile:
        """Remove a file, a symlink (not what it leads to), an empty directory, or with `recursive` a tree."""
        try:
            await self.agent.ask(Operation.REMOVE, path)
        except AgentError as error:
            if not recursive or error.number not in (errno.ENOTEMPTY, errno.EEXIST):
                raise refusal(error, path) from None
            await self._remove_tree(path)
        text, raw = _text(path)
        return RemovedFile(path=text, path_base64=raw)

    async def _remove_tree(self, path: bytes) -> None:
        agent, at = self.agent, path
        try:
            while (await agent.ask(Operation.REMOVE_TREE, path)).flags & ReplyFlag.MORE:
                pass
            return
        except AgentError:  # it is looked for what is in the way; or the agent is an old one, or the tree too deep for it
            pass
        try:
            handle = (await agent.ask(Operation.DIRECTORY, path)).handle
            try:
                below = [b""]
                while below:
                    at = below[-1]
                    left = await self._empty(handle, at)
                    if left:
                        below += [at + b"/" + name if at else name for name in left]
                    elif below.pop():
                        await agent.ask(Operation.REMOVE, at, flags=Flag.BENEATH, handle=handle)
            finally:
                agent.release(handle)
            at = b""
            await agent.ask(Operation.REMOVE, path)
        except AgentError as error:
            raise refusal(error, path.rstrip(b"/") + b"/" + at if at else path) from None

    async def _empty(self, handle: int, below: bytes) -> list[bytes]:
        """Remove what a directory holds, but for its directories that are not empty: their names."""
        for _ in range(_EMPTIED_MOST):
            answer = await self.agent.ask(Operation.EMPTY, below, flags=Flag.BENEATH, handle=handle)
            if answer.entries or not answer.flags & ReplyFlag.MORE:
                break
        return [entry.name for entry in answer.entries]


async def entries_of(agent: FileAgent, handle: int, most: int = LISTED_MOST) -> AsyncIterator[Entry]:
    """The entries of a directory, in no order. Raises ProblemError `too_large` beyond `most`, AgentError."""
    more, seen = True, 0
    while more:
        answer = await agent.ask(Operation.NEXT, handle=handle)
        more = bool(answer.flags & ReplyFlag.MORE)
        seen += len(answer.entries)
        if seen > most:
            raise ProblemError("too_large", f"the directory has more than {most} entries")
        for entry in answer.entries:
            if entry.flags & EntryFlag.TARGET_LEFT_OUT:
                entry = (await agent.ask(Operation.STAT, entry.name, flags=Flag.BENEATH, handle=handle)).entry.called(entry.name)
            yield entry


def _damaged(damage: Damage, path: bytes) -> ProblemError:
    return ProblemError("damaged", f"{shown(path)}: {damage}; the file is as it was")


def _check_room(fd: int, size: int) -> None:
    """Refuse at once what cannot fit."""
    room = os.fstatvfs(fd)
    if room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _etag(entry: Entry, size: int) -> str:
    facts = f"{entry.dev} {entry.ino} {entry.mtime_ns} {size}"
    return f'"{hashlib.sha256(facts.encode()).hexdigest()[:32]}"'


def info(path: bytes, entry: Entry) -> FileInfo:
    """A file as the wire has it."""
    shown_path, path_base64 = _text(path)
    target, target_base64 = _text(entry.target) if stat.S_ISLNK(entry.mode) else (None, None)
    return FileInfo(
        path=shown_path, path_base64=path_base64, type=_type(entry.mode), size=entry.size, mode=stat.S_IMODE(entry.mode),
        mtime=entry.mtime_ns / 1e9, uid=entry.uid, gid=entry.gid, target=target, target_base64=target_base64,
    )  # fmt: skip


def _text(raw: bytes) -> tuple[str, str | None]:
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        return raw.decode(errors="replace"), base64.b64encode(raw).decode()


def _type(mode: int) -> FileType:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"
