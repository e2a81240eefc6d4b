"""`sandbox_files` for asyncio."""

from __future__ import annotations

from abc import ABC, abstractmethod

from remote_env.filemodels import FileInfo, WrittenFile
from remote_env.filerequests import Path
from remote_env.files import Data, Files
from remote_env.transfers import OnProgress, Transfer


class AsyncSandboxFiles(ABC):
    """Reading, writing and carrying files, without a command and without the container's engine. Arguments, rules and errors: see
    `SandboxFiles`. Local files are read, written and hashed in threads; callbacks are called in the event loop."""

    @property
    @abstractmethod
    def files(self) -> Files:
        """The same, and a little more."""

    async def read_bytes(self, path: Path, *, offset: int = 0, length: int | None = None, user: str | None = None) -> bytes:
        """A file's content, or the `length` bytes of it from `offset` on (fewer where it ends before)."""
        return await self.files.read_bytes(path, offset=offset, length=length, user=user)

    async def read_text(self, path: Path, encoding: str = "utf-8", errors: str = "strict", *, user: str | None = None) -> str:
        """A file's content as text; line ends stay as they are."""
        return await self.files.read_text(path, encoding=encoding, errors=errors, user=user)

    async def write(
        self, path: Path, data: Data, *, mode: int | None = None, parents: bool = True, user: str | None = None
    ) -> WrittenFile:  # fmt: skip
        """Makes a file with this content, or replaces one at once: nobody sees a part of it."""
        return await self.files.write(path, data, mode=mode, parents=parents, user=user)

    async def upload(
        self, local: Path, remote: Path, *, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:  # fmt: skip
        """A local file or tree to this path of the sandbox, which is its final name in either case."""
        return await self.files.upload(local, remote, user=user, on_progress=on_progress)

    async def download(
        self, remote: Path, local: Path, *, resume: bool = True, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:
        """A file or tree of the sandbox to this local path, which is its final name in either case."""
        return await self.files.download(remote, local, resume=resume, user=user, on_progress=on_progress)

    async def list(self, path: Path = ".", *, user: str | None = None) -> list[FileInfo]:
        """What is in a directory, sorted by name, symbolic links as themselves."""
        return await self.files.list(path, user=user)

    async def stat(self, path: Path, *, follow: bool = True, user: str | None = None) -> FileInfo:
        """What is at a path. `follow`: of a symbolic link, what it leads to."""
        return await self.files.stat(path, follow=follow, user=user)

    async def exists(self, path: Path, *, user: str | None = None) -> bool:
        """Whether there is anything at the path. A symbolic link that leads nowhere is nothing."""
        return await self.files.exists(path, user=user)

    async def make_directory(self, path: Path, *, parents: bool = True, mode: int | None = None, user: str | None = None) -> FileInfo:
        """Makes a directory; with `parents`, those that it is in too, and it may be there already."""
        return await self.files.make_directory(path, parents=parents, mode=mode, user=user)
