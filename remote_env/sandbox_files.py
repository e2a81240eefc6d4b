"""The files of a sandbox, as its caller sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from remote_env.driving import drive
from remote_env.filemodels import FileInfo, WrittenFile
from remote_env.filerequests import Path
from remote_env.files import Data, Files
from remote_env.transfers import OnProgress, Transfer


class SandboxFiles(ABC):
    """Reading, writing and carrying files, without a command and without the container's engine.

    Paths are absolute, or relative to the sandbox's workdir, and are resolved inside it, with the rights of its user or of `user`
    (a name or number). Nothing outside the sandbox can be reached, whatever its symbolic links say. A file that is written has its
    name only when all of it has come and its SHA-256 was right. Files over any size take little memory.

    A request that breaks is made again: reads go on where they were, and writing the same content twice leaves it as once. (A
    copy that was held up on the way may come after something else has written to the same path: as with any two writers.)

    All raise FileError and its kinds for what is wrong with a path, SandboxGone, InvalidSpec, ServerBusy, Unreachable, LinkLost.
    """

    @property
    @abstractmethod
    def files(self) -> Files:
        """The same, as coroutines, and a little more."""

    def read_bytes(self, path: Path, *, offset: int = 0, length: int | None = None, user: str | None = None) -> bytes:
        """A file's content, or the `length` bytes of it from `offset` on (fewer where it ends before)."""
        return drive(self.files.read_bytes(path, offset=offset, length=length, user=user))

    def read_text(self, path: Path, encoding: str = "utf-8", errors: str = "strict", *, user: str | None = None) -> str:
        """A file's content as text; line ends stay as they are. Raises UnicodeDecodeError, too."""
        return drive(self.files.read_text(path, encoding=encoding, errors=errors, user=user))

    def write(
        self, path: Path, data: Data, *, mode: int | None = None, parents: bool = True, user: str | None = None
    ) -> WrittenFile:  # fmt: skip
        """Makes a file with this content, or replaces one at once: nobody sees a part of it.

        Args:
            data: bytes; text, which is written as UTF-8; or a binary file that can seek, which is read from its beginning.
            mode: permission bits. None: those of the file that is replaced, else 0o644.
            parents: make the directories that it is in, where they are missing.

        Returns: what was made, with its size and `sha256`.
        """
        return drive(self.files.write(path, data, mode=mode, parents=parents, user=user))

    def upload(
        self, local: Path, remote: Path, *, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:  # fmt: skip
        """A local file or tree to this path of the sandbox, which is its final name in either case: nothing is put below it.

        Permission bits and symbolic links stay what they are; owner is the sandbox's user. A tree is merged with a directory that
        is there. A tree that breaks off is sent again from its beginning; what came of it before stays.

        Args:
            on_progress: called with a `Progress` some times for each MiB, in this thread.

        Raises OSError where the local side cannot be read, FileChanged where it changes meanwhile.
        """
        return drive(self.files.upload(local, remote, user=user, on_progress=on_progress))

    def download(
        self, remote: Path, local: Path, *, resume: bool = True, user: str | None = None, on_progress: OnProgress | None = None
    ) -> Transfer:
        """A file or tree of the sandbox to this local path, which is its final name in either case.

        Permission bits and symbolic links stay what they are (no setuid, setgid or sticky bits; owner is the caller). A tree is
        merged with a directory that is there, and gets its name, or is merged, only once all of it has come.

        Args:
            resume: a file that breaks off, or Ctrl-C, leaves `NAME.part` and `NAME.part.json`, and the next download of the same
                version goes on from there. False: nothing is left.
            on_progress: as in `upload`.

        Raises OSError where the local side cannot be written, Damaged, FileChanged.
        """
        return drive(self.files.download(remote, local, resume=resume, user=user, on_progress=on_progress))

    def list(self, path: Path = ".", *, user: str | None = None) -> list[FileInfo]:
        """What is in a directory, sorted by name, symbolic links as themselves. Raises FileTooLarge for over 100,000 files."""
        return drive(self.files.list(path, user=user))

    def stat(self, path: Path, *, follow: bool = True, user: str | None = None) -> FileInfo:
        """What is at a path. `follow`: of a symbolic link, what it leads to."""
        return drive(self.files.stat(path, follow=follow, user=user))

    def exists(self, path: Path, *, user: str | None = None) -> bool:
        """Whether there is anything at the path. A symbolic link that leads nowhere is nothing. Raises SandboxPermissionError where
        the user may not know."""
        return drive(self.files.exists(path, user=user))

    def make_directory(self, path: Path, *, parents: bool = True, mode: int | None = None, user: str | None = None) -> FileInfo:
        """Makes a directory; with `parents`, those that it is in too, and it may be there already."""
        return drive(self.files.make_directory(path, parents=parents, mode=mode, user=user))
