"""The files of one sandbox: read, written, listed, and carried between here and there.

Paths are the sandbox's: absolute, or relative to its workdir. They are resolved inside it, as its user or as `user`. Every content
is checked by its SHA-256 at the end that gets it, and no file ever has its name before all of it is there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path as LocalPath
from typing import BinaryIO, TypeVar

from remote_env.carrier import StreamedReply
from remote_env.errors import LinkLost, SandboxFileNotFound, SandboxNotADirectory
from remote_env.exchange import Exchange, Refused
from remote_env.filemodels import FileInfo, FileList, WrittenFile
from remote_env.filerequests import FileRequests, Path
from remote_env.hashed import Piece
from remote_env.packing import Held, LocalFile, LocalTree, Opened, Source, is_tree
from remote_env.partial import InMemory, PartialFile, PassedOn
from remote_env.pulling import FIRST_RANGE, Pull
from remote_env.transfers import OnProgress, Progress, Transfer, receive_tree, told, unframe
from remote_env.unpacking import Unpacker

Local = TypeVar("Local", PartialFile, Unpacker)
Data = bytes | bytearray | memoryview | str | BinaryIO


class Files:
    """See `sandbox_files`, which tells what each of these does: they are written once, for both faces of the client."""

    def __init__(self, exchange: Exchange, sandbox_id: str, epoch: str, on_gone: Callable[[str], None]) -> None:
        self._requests = FileRequests(exchange, sandbox_id, epoch, on_gone)
        self._aside = exchange.transport.aside

    # ------------------------------------------------------------------------------------------------- looking

    async def stat(self, path: Path, *, follow: bool = True, user: str | None = None) -> FileInfo:
        url = self._requests.url(path, **{"as": "stat"}, follow=None if follow else "0", user=user)
        return (await self._requests.ask(FileInfo, "GET", url, path)).decoded()

    async def exists(self, path: Path, *, user: str | None = None) -> bool:
        try:
            await self.stat(path, user=user)
        except (SandboxFileNotFound, SandboxNotADirectory):
            return False
        return True

    async def list(self, path: Path, *, user: str | None = None) -> list[FileInfo]:
        url = self._requests.url(path, **{"as": "list"}, user=user)
        return [each.decoded() for each in (await self._requests.ask(FileList, "GET", url, path)).entries]

    # ------------------------------------------------------------------------------------------------- changing

    async def remove(self, path: Path, *, recursive: bool = False, user: str | None = None) -> None:
        url = self._requests.url(path, recursive=recursive, user=user)
        copies = 0

        async def attempt() -> None:
            nonlocal copies
            copies += 1
            try:
                await self._requests.ask_once("DELETE", url)
            except Refused as refusal:
                # Not there any more, after a copy whose answer was lost: that copy did it.
                if copies == 1 or refusal.problem.code != "file_not_found":
                    raise

        await self._requests.persist(attempt, "DELETE", path)

    async def make_directory(
        self, path: Path, *, parents: bool = True, mode: int | None = None, user: str | None = None
    ) -> FileInfo:  # fmt: skip
        url = self._requests.url(path, below="/directory", parents=parents, mode=_octal(mode), user=user)
        return await self._requests.ask(FileInfo, "POST", url, path)

    # ------------------------------------------------------------------------------------------------- content

    async def read_bytes(self, path: Path, *, offset: int = 0, length: int | None = None, user: str | None = None) -> bytes:
        memory = InMemory()
        await Pull(self._requests, path, memory, user=user, offset=offset, length=length).run()
        return bytes(memory.data)

    async def read_text(self, path: Path, *, encoding: str = "utf-8", errors: str = "strict", user: str | None = None) -> str:
        return (await self.read_bytes(path, user=user)).decode(encoding, errors)

    async def read_into(
        self, path: Path, write: Callable[[bytes], object], *, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:
        """A file's content to `write`, piece by piece, each of them checked before. Raises FileChanged where the file changes after
        the first."""
        digest = hashlib.sha256()
        total: int | None = None

        def passed(data: bytes) -> None:
            write(data)
            digest.update(data)

        sink = PassedOn(passed)
        if on_progress is not None:
            total = (await self.stat(path, user=user)).size
        heard = told(on_progress, path, total)
        await Pull(self._requests, path, sink, user=user, most=FIRST_RANGE, on_bytes=heard).run()
        return Transfer(os.fspath(path), 1, sink.kept, digest.hexdigest())

    async def write(
        self, path: Path, data: Data, *, mode: int | None = None, parents: bool = True, user: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> WrittenFile:  # fmt: skip
        source: Source
        if isinstance(data, str):
            source = Held(data.encode())
        elif isinstance(data, (bytes, bytearray, memoryview)):
            source = Held(bytes(data))
        else:
            source = await self._aside.run(lambda: Opened(data))
        return await self._put(path, source, mode, parents, user, on_progress)

    # ------------------------------------------------------------------------------------------- upload, download

    async def upload(
        self, local: Path, remote: Path, *, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:  # fmt: skip
        if await self._aside.run(lambda: is_tree(local)):
            return await self._upload_tree(LocalPath(local), remote, user, on_progress)
        file = await self._aside.run(lambda: LocalFile(LocalPath(local)))
        written = await self._put(remote, file, file.mode, True, user, on_progress)
        return Transfer(written.path, 1, written.size, written.sha256)

    async def _put(
        self, path: Path, source: Source, mode: int | None, parents: bool, user: str | None, on_progress: OnProgress | None
    ) -> WrittenFile:
        url = self._requests.url(path, mode=_octal(mode), parents=parents, user=user)
        return (await self._requests.send(WrittenFile, url, source, path, on_sent=told(on_progress, path, source.size))).decoded()

    async def _upload_tree(self, local: LocalPath, remote: Path, user: str | None, on_progress: OnProgress | None) -> Transfer:
        try:
            there = await self.stat(remote, user=user)
        except SandboxFileNotFound:
            fresh = True
        else:
            fresh = False
            if there.type != "directory":
                raise SandboxNotADirectory(f"{os.fspath(remote)}: Not a directory (in the sandbox)", path=os.fspath(remote))
        tree = await self._aside.run(lambda: LocalTree(local, with_top=fresh))
        url = self._requests.url(remote, **{"as": "tar"}, parents=True, user=user)
        written = await self._requests.send(WrittenFile, url, tree, remote, on_sent=told(on_progress, remote, tree.bytes))
        return Transfer(written.path, tree.files, tree.bytes, None, tree.skipped)

    async def write_tree(
        self, path: Path, tar: BinaryIO, *, user: str | None = None, on_progress: OnProgress | None = None
    ) -> WrittenFile:  # fmt: skip
        """Unpacks a tar, which can seek, into the directory."""
        source = await self._aside.run(lambda: Opened(tar))
        url = self._requests.url(path, **{"as": "tar"}, parents=True, user=user)
        return await self._requests.send(WrittenFile, url, source, path, on_sent=told(on_progress, path, source.size))

    async def download(
        self, remote: Path, local: Path, *, resume: bool = True, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:
        info = await self.stat(remote, user=user)
        if info.type == "directory":
            return await self._download_tree(remote, LocalPath(local), user, on_progress)
        async with self._entered(lambda: PartialFile(LocalPath(local), resume=resume)) as part:
            pull = Pull(self._requests, remote, part, user=user, on_bytes=told(on_progress, remote, info.size))
            await pull.run()
            mode = info.mode & 0o777 if pull.mode is None else pull.mode
            await self._aside.run(lambda: part.settle(mode))
        return Transfer(str(local), 1, part.kept, part.sha256)

    async def _download_tree(self, remote: Path, local: LocalPath, user: str | None, on_progress: OnProgress | None) -> Transfer:
        unpacked: Unpacker | None = None

        async def take(reply: StreamedReply) -> Transfer:
            nonlocal unpacked
            async with self._entered(lambda: Unpacker(local)) as unpacked:

                def tell() -> None:
                    if on_progress is not None and unpacked is not None:
                        on_progress(Progress(unpacked.current, unpacked.size, None))

                await unframe(reply, unpacked.feed, self._aside, tell, apart=True)
                await self._aside.run(unpacked.settle)
                return Transfer(str(local), unpacked.files, unpacked.size, None, unpacked.skipped)

        return await receive_tree(self._requests, remote, user, take)

    @asynccontextmanager
    async def _entered(self, make: Callable[[], Local]) -> AsyncIterator[Local]:
        """A context manager that works on the local disk."""
        entered = await self._aside.run(make)
        try:
            yield entered
        except BaseException as error:
            await self._aside.run(partial(entered.__exit__, type(error), error, error.__traceback__))
            raise
        await self._aside.run(lambda: entered.__exit__(None, None, None))

    async def read_tree(self, path: Path, write: Callable[[Piece], object], *, user: str | None = None) -> int:
        """A tree as a tar to `write`, as it comes; its size in bytes. What has been written cannot be taken back: so it is not begun
        again once something came. Raises LinkLost, Damaged when it breaks off after that."""
        size = 0

        def passed(piece: Piece) -> None:
            nonlocal size
            write(piece)
            size += len(piece)

        async def take(reply: StreamedReply) -> int:
            if size:
                raise LinkLost(f"The tar of {os.fspath(path)} broke off after {size} bytes.")
            await unframe(reply, passed, self._aside, apart=False)
            return size

        return await receive_tree(self._requests, path, user, take)


def _octal(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:04o}"
