"""What server and file agent say to each other, as bytes. `init/files.h` is the other half of this definition and tells the
format. What comes from an agent is untrusted: everything here raises :class:`server.messages.BadMessage` rather than guess."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag

from server.messages import PACKET_LIMIT, BadMessage

NOT_REGULAR = 1001  # an agent's error beside the kernel's: a device, FIFO or socket
NAME_LIMIT = 255  # bytes
TARGET_LIMIT = 4095  # bytes of a symlink's text, or of LINK's source
PATH_LIMIT = PACKET_LIMIT - 64 - TARGET_LIMIT  # bytes; the kernel has its own for one that it resolves
CONTENT_LIMIT = PACKET_LIMIT - 64 - TARGET_LIMIT - TARGET_LIMIT  # bytes of a file that is written by one request

_REQUEST = struct.Struct("<IBBHIIqI")
_REPLY = struct.Struct("<IiIII")
_ENTRY = struct.Struct("<IIIIQqIIQQ")
_LENGTH = struct.Struct("<I")
_SECONDS = 1 << 62  # beyond what any file system has


class Operation(IntEnum):
    STAT = 1
    OPEN = 2  # a regular file, to be read
    DIRECTORY = 3  # a handle for NEXT, and for what is BENEATH it
    NEXT = 4  # some entries of a directory; without MORE: it was read to its end
    CREATE = 5  # a temporary file beside the one to be, to be written; a handle for COMMIT
    COMMIT = 6  # give it its mode and name; closes the handle
    MAKE_DIRECTORY = 7
    REMOVE = 8  # a file or an empty directory
    EMPTY = 9  # remove what a directory holds; answers the directories in it that are not empty
    SYMLINK = 10  # `other`: its text
    LINK = 11  # `other`: what to link to, beneath the same handle
    SET = 12  # mode and mtime of a directory
    CLOSE = 13
    WRITE = 14  # a small file, whole, in one request: `content`; agents of older inits do not know it
    REMOVE_TREE = 15  # a directory and what is in it; with MORE: a part of it; nor this


class Flag(IntFlag):
    BENEATH = 1  # `path` is relative to the handle's directory; no link in it is followed
    FOLLOW = 2  # a link that `path` ends in
    PARENTS = 4  # make the directories that are missing
    EXIST_OK = 8
    KEEP_MODE = 16  # of the file replaced, where there is one
    MTIME = 32  # set it


class ReplyFlag(IntFlag):
    MORE = 1
    MADE_UP = 2  # what the kernel makes up when it is read: the descriptor is a copy of it; the directory is such a one
    REPLACED = 4  # something was there before
    UNNAMED = 8  # the temporary file has no name


_REPLY_FLAGS = ReplyFlag.MORE | ReplyFlag.MADE_UP | ReplyFlag.REPLACED | ReplyFlag.UNNAMED


class EntryFlag(IntFlag):
    TARGET_LEFT_OUT = 1  # no room for it in this packet: ask for it


@dataclass(frozen=True)
class Entry:
    """A file as lstat or stat has it. `name` is empty where the request named it."""

    mode: int  # with the type
    uid: int
    gid: int
    flags: EntryFlag
    size: int  # bytes
    mtime_ns: int
    dev: int
    ino: int
    name: bytes
    target: bytes  # of a symlink

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def called(self, name: bytes) -> Entry:
        """The same by this name."""
        return replace(self, name=name)


@dataclass(frozen=True)
class Reply:
    number: int
    error: int
    handle: int
    flags: ReplyFlag
    entries: tuple[Entry, ...]


def request(
    number: int, operation: Operation, flags: int = 0, handle: int = 0, mode: int = 0, mtime_ns: int = 0, path: bytes = b"",
    other: bytes = b"", content: bytes = b"",
) -> bytes:  # fmt: skip
    """A request as a packet. Raises ValueError for what no agent would take: NULs, and lengths beyond the limits above."""
    if b"\0" in path or b"\0" in other or len(path) > PATH_LIMIT or len(other) > TARGET_LIMIT or len(content) > CONTENT_LIMIT:
        raise ValueError("no such path")
    if content and len(path) > TARGET_LIMIT:
        raise ValueError("no such path")
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    head = _REQUEST.pack(number, operation, flags, 0, handle, mode, seconds, nanoseconds)
    return b"".join((head, _LENGTH.pack(len(path)), path, _LENGTH.pack(len(other)), other, content))


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def string(self, limit: int) -> bytes:
        end = self._at + _LENGTH.size
        if end > len(self._data):
            raise BadMessage("a reply is cut")
        (length,) = _LENGTH.unpack_from(self._data, self._at)
        if length > limit or end + length > len(self._data):
            raise BadMessage("a string of a reply is too long")
        self._at = end + length
        text = self._data[end : self._at]
        if b"\0" in text:
            raise BadMessage("a string of a reply holds a NUL")
        return text

    def entry(self) -> Entry:
        if self._at + _ENTRY.size > len(self._data):
            raise BadMessage("a reply is cut")
        mode, uid, gid, flags, size, seconds, nanoseconds, zero, dev, ino = _ENTRY.unpack_from(self._data, self._at)
        self._at += _ENTRY.size
        name, target = self.string(NAME_LIMIT), self.string(TARGET_LIMIT)
        if zero or flags & ~EntryFlag.TARGET_LEFT_OUT or nanoseconds >= 1_000_000_000 or abs(seconds) > _SECONDS or size > 1 << 63:
            raise BadMessage("an entry of a reply is out of bounds")
        if mode >> 16 or (target and not stat.S_ISLNK(mode)):
            raise BadMessage("an entry of a reply is no file")
        if b"/" in name or name in (b".", b".."):
            raise BadMessage("a name of a reply is none")
        return Entry(mode, uid, gid, EntryFlag(flags), size, seconds * 1_000_000_000 + nanoseconds, dev, ino, name, target)

    def end(self) -> None:
        if self._at != len(self._data):
            raise BadMessage("a reply has a tail")


def parse(data: bytes) -> Reply:
    """A reply. Raises BadMessage."""
    if len(data) < _REPLY.size:
        raise BadMessage("a reply is cut")
    number, error, handle, flags, count = _REPLY.unpack_from(data)
    if error < 0 or flags & ~_REPLY_FLAGS:
        raise BadMessage("a reply is out of bounds")
    if count * (_ENTRY.size + 2 * _LENGTH.size) > len(data) or (error and (count or handle or flags)):
        raise BadMessage("a reply has more entries than it can")
    reader = _Reader(data, _REPLY.size)
    entries = tuple(reader.entry() for _ in range(count))
    reader.end()
    return Reply(number, error, handle, ReplyFlag(flags), entries)
