"""What is sent as a file's or a tree's content: sources that can be read again from their beginning, since a request whose
fate is unknown is sent again. All of them are read in pieces, so that their size does not matter."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from remote_env.errors import FileChanged

PIECE_BYTES = 256 << 10  # of one read and of one send
_PERMISSIONS = 0o777
_RECORD = tarfile.RECORDSIZE


class Unreadable(Exception):
    """The local source cannot be read: `error` says why. Its own type, so that it cannot pass for an error of the link."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def is_tree(path: str | os.PathLike[str]) -> bool:
    """Whether it is a directory, or a link to one."""
    return Path(path).is_dir()


class Source(Protocol):
    size: int | None  # bytes of `pieces`; None: not known before they have been read

    def pieces(self) -> Iterator[bytes]:
        """The content from its beginning, each time. Raises Unreadable, FileChanged."""


class Held:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.size: int | None = len(data)
        self._data = data

    def pieces(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), PIECE_BYTES):
            yield self._data[start : start + PIECE_BYTES]


class Opened:
    """A file that somebody has opened, which can seek: its content from the beginning."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size: int | None = file.seek(0, os.SEEK_END)

    def pieces(self) -> Iterator[bytes]:
        with _telling():
            self._file.seek(0)
            while data := self._file.read(PIECE_BYTES):
                yield data


class LocalFile:
    """A regular file. Raises OSError where there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()
        if not stat.S_ISREG(self._status.st_mode):
            raise OSError(errno.EINVAL, "it is neither a regular file nor a directory", str(path))
        self.size: int | None = self._status.st_size
        self.mode = self._status.st_mode & _PERMISSIONS
        # What says that it is empty may be one of the kernel's own, below /proc say.
        self._held = Held(path.read_bytes()) if not self.size else None
        if self._held is not None:
            self.size = self._held.size

    def pieces(self) -> Iterator[bytes]:
        yield from _content(self._path, self._status, follow=True) if self._held is None else self._held.pieces()


class LocalTree:
    """A directory, as a tar: names relative to it, permission bits, times and symbolic links as they are; owners are left to the
    receiver, a hard link is a file like the other. Sockets, FIFOs and devices are left out. Raises OSError.

    Args:
        with_top: an entry for the directory itself, which carries its permission bits.
    """

    size: int | None = None

    def __init__(self, path: Path, *, with_top: bool) -> None:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        self._path = path
        self._with_top = with_top
        self.files = 0
        self.bytes = 0  # of content, for who wants to see how far it is
        self.skipped: dict[str, str] = {}  # by path, why
        for name, status in self._walk():
            if stat.S_ISREG(status.st_mode):
                self.files += 1
                self.bytes += status.st_size
            elif not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                self.skipped[name] = "not_regular"

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Names relative to the tree, parents first."""
        if self._with_top:
            yield ".", self._path.stat()
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            below = []
            for entry in sorted(os.scandir(self._path / directory), key=lambda each: each.name):
                name = f"{directory}/{entry.name}" if directory else entry.name
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    below.append(name)
            waiting += reversed(below)

    def pieces(self) -> Iterator[bytes]:
        with _telling():
            sent = 0
            for name, status in self._walk():
                info = self._entry(name, status)
                if info is None:
                    continue
                head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                sent += len(head)
                yield head
                if info.isreg():
                    yield from _content(self._path / name, status, follow=False)
                    padding = -info.size % tarfile.BLOCKSIZE
                    sent += info.size + padding
                    if padding:
                        yield bytes(padding)
            end = 2 * tarfile.BLOCKSIZE
            yield bytes(end + -(sent + end) % _RECORD)

    def _entry(self, name: str, status: os.stat_result) -> tarfile.TarInfo | None:
        info = tarfile.TarInfo(name)
        info.mode, info.mtime = status.st_mode & _PERMISSIONS, int(status.st_mtime)
        if stat.S_ISREG(status.st_mode):
            info.size = status.st_size
        elif stat.S_ISDIR(status.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(status.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(self._path / name)
        else:
            return None
        return info


def _content(path: Path, expected: os.stat_result, *, follow: bool) -> Iterator[bytes]:
    """Exactly as many bytes as it had when it was looked at. Raises Unreadable, FileChanged."""
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow:  # what has become a link or a FIFO since is not to be followed or waited for
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with _telling(), open(os.open(path, flags), "rb", buffering=0) as file:
        left = expected.st_size
        while left and (data := file.read(min(left, PIECE_BYTES))):
            left -= len(data)
            yield data
        now = os.fstat(file.fileno())
        if left or (now.st_size, now.st_mtime_ns) != (expected.st_size, expected.st_mtime_ns):
            raise FileChanged(f"{path} was changed while it was read; nothing of it was written.", path=str(path))


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(error) from error
