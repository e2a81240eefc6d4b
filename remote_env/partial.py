"""Where a file's content goes while it is fetched: into memory, to somebody who takes it, or into `NAME.part` until it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from remote_env.errors import FileChanged
from remote_env.fields import new_id
from remote_env.hashed import Piece

if sys.platform == "win32":

    def _lock(file: FileIO) -> bool:
        """There is no such lock."""
        return True
else:
    import fcntl

    def _lock(file: FileIO) -> bool:
        """Whether the file is this call's alone, until it is closed."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_HASH_BYTES = 1 << 20
_CLOSE_FIRST = os.name == "nt"  # which renames no open file

log = logging.getLogger("remote_env")


def _private(name: str, flags: int) -> int:
    """An opener: the file, made where there is none. Whose it may be to read is said when it is whole, so until then nobody else's."""
    return os.open(name, flags | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o600)


class InMemory:
    apart = False

    def __init__(self) -> None:
        self.etag: str | None = None
        self.kept = 0
        self.data = bytearray()

    def write(self, data: Piece) -> None:
        self.data += data

    def rewind(self) -> None:
        del self.data[self.kept :]

    def commit(self, etag: str | None, sha256: str, whole: bool) -> None:
        self.etag, self.kept = etag, len(self.data)

    def restart(self) -> None:
        self.etag, self.kept = None, 0
        self.data.clear()


class PassedOn:
    """What is checked goes on at once, and cannot be taken back."""

    apart = False  # whoever takes it is called where he asked for it

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.etag: str | None = None
        self.kept = 0
        self._write = write
        self._unchecked = bytearray()

    def write(self, data: Piece) -> None:
        self._unchecked += data

    def rewind(self) -> None:
        self._unchecked.clear()

    def commit(self, etag: str | None, sha256: str, whole: bool) -> None:
        data = bytes(self._unchecked)
        self._unchecked.clear()
        self.etag = etag
        self.kept += len(data)
        self._write(data)

    def restart(self) -> None:
        if self.kept:
            raise FileChanged("The file was changed while it was read, after a part of it had been passed on.")
        self.etag = None


class PartialFile:
    """`NAME.part`, which becomes NAME when it is whole. Beside it `NAME.part.json` says of which version of the file it is, and the
    length and SHA-256 of each range that is in it: a later call goes on behind those for which that is still true.

    As a context manager it leaves, on the way out with an error, what a later call can go on with; without `resume` nothing.

    Args:
        target: NAME; its directory is made where it is missing. Of a symbolic link, the file that it leads to is replaced.
        resume: go on where an earlier call ended. A second call for the same name at the same time gets a part of its own.
    """

    apart = True

    def __init__(self, target: Path, *, resume: bool) -> None:
        self.etag: str | None = None
        self.kept = 0
        self._target = target = Path(os.path.realpath(target))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        self._ranges: list[tuple[int, str]] = []  # length and SHA-256 of each that is kept
        self._file = self._locked(target.with_name(target.name + ".part")) if resume else None
        self._resumes = self._file is not None
        if self._file is None:
            own = target.with_name(f".{target.name}.{new_id()}.part")
            self._file = open(own, "x+b", buffering=0, opener=_private)  # noqa: SIM115
        self._path = Path(self._file.name)
        self._notes = self._path.with_name(self._path.name + ".json")
        if self._resumes:
            self._take_up()

    @property
    def sha256(self) -> str | None:
        """Of the whole, in hex, where it came in one range; None where it came in several, which have one each."""
        return self._ranges[0][1] if len(self._ranges) == 1 else None

    def write(self, data: Piece) -> None:
        left = memoryview(data)
        while left:
            left = left[self._open.write(left) :]

    def rewind(self) -> None:
        self._open.truncate(self.kept)
        self._open.seek(self.kept)

    def commit(self, etag: str | None, sha256: str, whole: bool) -> None:
        self._ranges.append((self._open.tell() - self.kept, sha256))
        self.etag = etag
        self.kept = self._open.tell()
        if self._resumes and not whole and etag is not None:
            notes = {"etag": etag, "ranges": self._ranges}
            fresh = self._notes.with_name(self._notes.name + ".new")
            fresh.write_text(json.dumps(notes))
            os.replace(fresh, self._notes)

    def restart(self) -> None:
        self.etag, self.kept = None, 0
        self._ranges.clear()
        self._notes.unlink(missing_ok=True)
        self.rewind()

    def settle(self, mode: int | None) -> None:
        """It is whole: gives it its name and its permission bits. Raises OSError."""
        if mode is not None:
            os.chmod(self._path, mode)
        if _CLOSE_FIRST:
            self._open.close()
        os.replace(self._path, self._target)
        self._notes.unlink(missing_ok=True)
        self._open.close()

    @property
    def _open(self) -> FileIO:
        assert self._file is not None
        return self._file

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open.closed:
            return
        if self._resumes and self.kept and self.etag is not None:
            self.rewind()
        else:
            with contextlib.suppress(OSError):
                self._path.unlink()
                self._notes.unlink(missing_ok=True)
        self._open.close()

    def _take_up(self) -> None:
        """What an earlier call has left, as far as it is what its notes say."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            notes: dict[str, Any] = json.loads(self._notes.read_text())
            etag, ranges = str(notes["etag"]), [(int(size), str(sha256)) for size, sha256 in notes["ranges"]]
            for size, sha256 in ranges:
                if self._next(size) != sha256:
                    break
                self.etag = etag
                self.kept += size
                self._ranges.append((size, sha256))
        if self.kept:
            log.info("%s: going on at byte %d", self._target, self.kept)
            self.rewind()
        else:
            self.restart()

    def _next(self, size: int) -> str | None:
        """SHA-256 of the next so many bytes, None where there are not as many."""
        digest = hashlib.sha256()
        while size > 0 and (data := self._open.read(min(size, _HASH_BYTES))):
            digest.update(data)
            size -= len(data)
        return None if size else digest.hexdigest()

    @staticmethod
    def _locked(path: Path) -> FileIO | None:
        """The file, for this call alone; None where another one has it."""
        while True:
            file = open(path, "r+b", buffering=0, opener=_private)  # noqa: SIM115
            if not _lock(file):
                file.close()
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
            file.close()  # another call has finished in between, and this has got its name by now
