"""The spool: one output file for each stream of an execution, written by `splice` from the command's pipe. No byte passes
through memory.

The file is append-only and its length is the exact total of what the command wrote (LENGTH): nothing else about it need
be stored, so a server that dies at any point loses and doubles nothing. Beyond the limit the middle is punched out of
the file as it grows: half the limit stays at the head, half at the tail (APPEND). On a full disk the rest is thrown
away, the file's length still counts it (a hole takes no space), and an extended attribute says where that began.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import fcntl
import hashlib
import logging
import os
import select
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger("server.spool")

Stream = Literal["merged", "stdout", "stderr"]
"""What a file holds: both streams in the order written, or one of them."""
MERGED: tuple[Stream, ...] = ("merged",)
SPLIT: tuple[Stream, ...] = ("stdout", "stderr")

PUNCH_STEP = 16 << 20  # bytes; a hole is made each time the tail has moved on by this much
TAKE = 1 << 20  # bytes at most in one go, so that no flood holds the event loop
FLOOD_PIPE = 1 << 20  # bytes; a pipe that was found full is widened to this (fcntl(2), F_SETPIPE_SZ)
_COPY = 64 * 1024  # bytes at most in one go through memory
_SHORT = 64 * 1024  # bytes; output this short is hashed in passing
_F_SETPIPE_SZ = 1031
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
_FULL_AT = "user.remote_env.full_at"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Kept:
    """What is kept of an output: bytes [0, head) and [tail, total) of the stream."""

    total: int
    head: int
    tail: int
    truncated: Literal["limit", "disk_full"] | None

    @property
    def size(self) -> int:
        return self.head + self.total - self.tail

    @property
    def gap(self) -> tuple[int, int] | None:
        return (self.head, self.tail) if self.truncated else None

    def available(self, offset: int) -> tuple[int, int]:
        """The next stretch of the whole output, from `offset` on, that is kept, as (start, end). Empty where none is left;
        `start` is beyond `offset` where what lies between was dropped."""
        if offset < self.head:
            return offset, self.head
        start = max(offset, self.tail)
        return start, max(start, self.total)

    def pieces(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where bytes [start, end) of the kept output lie in the file, as (offset, length)."""
        found = []
        if start < min(end, self.head):
            found.append((start, min(end, self.head) - start))
        if end > self.head:
            first = max(start, self.head)
            if end > first:
                found.append((self.tail + first - self.head, end - first))
        return found


def waiting(pipe: int) -> int:
    """Bytes in a pipe now (FIONREAD)."""
    buffer = fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0")
    return int(struct.unpack("i", buffer)[0])


class SpoolFile:
    """One stream of an execution's output. Made at its first byte; a command that says nothing leaves no file.

    Args:
        path: the file.
        limit: bytes to keep.
    """

    __slots__ = ("_fd", "_full_at", "_hole", "_name", "_punched", "limit", "total", "widened")

    def __init__(self, path: Path | str, limit: int) -> None:
        self._name = os.fspath(path)
        self.limit = limit
        self.widened = False
        self._punched = 0
        self._hole = (0, 0)  # what of the file may have been freed
        self._full_at: int | None = None
        self._fd = -1
        self.total = 0
        if os.path.exists(self._name):
            self._open()

    @property
    def path(self) -> Path:
        return Path(self._name)

    def _open(self) -> None:
        try:
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.total = os.fstat(self._fd).st_size
        if self.total:
            try:
                self._full_at = int(os.getxattr(self._fd, _FULL_AT))
            except OSError:
                self._full_at = None
        if self.total > self.limit:  # how far an earlier server had punched is not known: it may be all of the gap
            self._hole = (self.limit // 2, self.total - (self.limit - self.limit // 2))

    def clear(self) -> None:
        """Begin again: whatever is in the file is not of this output."""
        if self._fd >= 0:
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            self._fd, self.total, self._punched, self._hole, self._full_at = -1, 0, 0, (0, 0), None

    def take(self, pipe: int, most: int = TAKE) -> int | None:
        """Move what the pipe holds, up to `most` bytes, into the file.

        Returns the bytes moved, 0 at the end of the pipe, None when it is empty just now.
        """
        try:
            if self._full_at is not None:
                return self._discard(pipe, most)
            if self._fd < 0:
                if not waiting(pipe):  # an end of file must not make a file
                    return 0 if _at_end(pipe) else None
                self._open()
            taken = os.splice(pipe, self._fd, most, offset_dst=self.total, flags=os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._mark_full(error)
            return self._discard(pipe, most)
        self.total += taken
        if taken >= 65536 and not self.widened:
            self._widen(pipe)
        self._keep_to_limit()
        return taken

    def _keep_to_limit(self) -> None:
        head = self.limit // 2
        if self.total - max(self._punched, head) > self.limit - head + PUNCH_STEP:
            self._punch()

    def copy(self, terminal: int, most: int = TAKE) -> int | None:
        """As `take`, from a terminal's other end, which kernels splice from only into a pipe: what was read and not yet written
        goes with a server that is killed there, at most what the terminal gives at once (4 KiB)."""
        try:
            data = os.read(terminal, min(most, _COPY))
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has the terminal open any more
                return 0
            raise
        self._write(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        if self._full_at is None:
            try:
                if self._fd < 0 and data:
                    self._open()
                while left:
                    written = os.pwrite(self._fd, left, self.total)
                    self.total += written
                    left = left[written:]
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._mark_full(error)
        if left:
            self._count(len(left))
        self._keep_to_limit()

    def _widen(self, pipe: int) -> None:
        self.widened = True
        try:
            fcntl.fcntl(pipe, _F_SETPIPE_SZ, FLOOD_PIPE)
        except OSError as error:  # over the user's share of pipe memory: the narrow one works as well
            log.debug("pipe stays narrow: %s", error)

    def _mark_full(self, error: OSError) -> None:
        if self._fd < 0:
            self._full_at = 0
            return
        log.warning("spool: %s: %s; the rest of this output is thrown away", self.path.name, error.strerror)
        self.total = self._full_at = os.fstat(self._fd).st_size
        try:
            os.setxattr(self._fd, _FULL_AT, str(self._full_at).encode())
        except OSError as failure:
            log.warning("spool: %s: cannot be marked: %s", self.path.name, failure.strerror)

    def _discard(self, pipe: int, most: int) -> int | None:
        dropped = len(os.read(pipe, min(most, _COPY)))
        self._count(dropped)
        return dropped

    def _count(self, dropped: int) -> None:
        """So many bytes were written and are not kept."""
        self.total += dropped
        if self._fd >= 0:
            try:
                os.ftruncate(self._fd, self.total)
            except OSError as error:  # a file may not even be called that long: this process alone knows the total then
                if error.errno not in _NO_ROOM:
                    raise

    def _punch(self) -> None:
        """Free the disk between head and tail, in whole blocks inside the gap."""
        head = self.limit // 2
        start = max(self._punched, (head + 4095) & ~4095)
        end = (self.total - (self.limit - head)) & ~4095
        if end > start:
            if _libc.fallocate(self._fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, start, end - start) != 0:
                number = ctypes.get_errno()
                log.warning("spool: %s: no hole can be punched: %s", self.path.name, os.strerror(number))
            self._punched = end
            self._hole = (self._hole[0] or start, max(self._hole[1], end))

    def kept(self) -> Kept:
        """What is kept as of now."""
        total = self.total
        if self._full_at is not None and self._full_at < total:
            head = min(self._full_at, self.limit // 2) if self._full_at > self.limit else self._full_at
            return Kept(total, head, total, "disk_full")
        if total <= self.limit:
            return Kept(total, total, total, None)
        head = self.limit // 2
        return Kept(total, head, total - (self.limit - head), "limit")

    def available(self, offset: int) -> tuple[int, int]:
        """The next stretch of the whole output, from `offset` on, that can be read in the file now, as (start, end): more than
        what will be kept, as long as it is not freed. Empty where there is none yet; `start` is beyond `offset` where what
        lies between is gone."""
        hole_start, hole_end = self._hole
        written = self.total if self._full_at is None else min(self._full_at, self.total)
        if offset < min(hole_start, written):
            return offset, min(hole_start, written)
        start = max(offset, hole_end)
        if start >= written and self._full_at is not None:
            start = max(start, self.total)  # what came after the disk was full was thrown away
        return start, max(start, written)

    def finish(self) -> tuple[Kept, str | None]:
        """Nothing more will come: free what is in the gap, close. Returns what is kept and, where it is short, its
        sha256 in hex (else the caller asks `digest()` off the event loop). May be called again."""
        kept = self.kept()
        if self._fd < 0:
            return kept, None if kept.size else _EMPTY_SHA256
        try:
            if kept.truncated == "limit":
                self._punch()
            if kept.truncated is None and kept.total <= _SHORT:
                return kept, hashlib.sha256(os.pread(self._fd, kept.total, 0)).hexdigest()
            return kept, None
        finally:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def _at_end(pipe: int) -> bool:
    """No writer is left and nothing is in it."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(flags & select.POLLHUP and not flags & select.POLLIN for _, flags in poll.poll(0))


def read_at(path: Path, start: int, end: int) -> bytes:
    """Bytes [start, end) of the whole output, as they lie in the file; fewer where it ends before. What `available` does not
    name reads as zeros. Raises FileNotFoundError when it was purged."""
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(max(0, end - start))


def read(path: Path, kept: Kept, start: int, end: int) -> bytes:
    """Bytes [start, end) of the kept output, head and tail in a row. Raises FileNotFoundError when it was purged."""
    return b"".join(read_at(path, offset, offset + length) for offset, length in kept.pieces(start, end))


def digest(path: Path, kept: Kept) -> str:
    """sha256 of the kept bytes, in hex; reads them all."""
    hasher = hashlib.sha256()
    at = 0
    while at < kept.size:
        piece = read(path, kept, at, min(at + (1 << 20), kept.size))
        if not piece:
            raise OSError(errno.EIO, "the spool file is shorter than its output", str(path))
        hasher.update(piece)
        at += len(piece)
    return hasher.hexdigest()


class Spool:
    """The directory of output files: DATA_DIR/spool/<two letters of the id>/<id>, and <id>.err for a stderr apart."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.fspath(root)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, execution_id: str, stream: Stream = "merged") -> Path:
        return Path(self._name(execution_id, stream))

    def _name(self, execution_id: str, stream: Stream) -> str:
        # Ids made in one millisecond share their beginning, so the end spreads them. No id has a dot in it.
        return f"{self._root}/{execution_id[-2:]}/{execution_id}{'.err' if stream == 'stderr' else ''}"

    def open(self, execution_id: str, limit: int, stream: Stream = "merged") -> SpoolFile:
        return SpoolFile(self._name(execution_id, stream), limit)  # made into a path where there is output: most have none

    def remove(self, execution_id: str) -> None:
        """All that is there of its output."""
        for stream in ("merged", "stderr"):
            self.path(execution_id, stream).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Bytes that are left on the spool's disk for us."""
        state = os.statvfs(self.root)
        return state.f_bavail * state.f_frsize
