"""Reading a tar archive as it comes, in pieces of any size: ustar, pax and GNU's long names. No I/O.

What comes is untrusted: every length is bounded, every header's checksum is checked, and nothing is guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

BLOCK = 512
_EXTENSION_LIMIT = 1 << 20  # bytes of the pax headers and long names before one member
_SIZE_LIMIT = 1 << 62  # bytes of one member
_KNOWN = (b"path", b"linkpath", b"size", b"mtime")  # records of pax headers that count
_SPARSE = "it holds sparse files, which are not supported: pack them as they are"
_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


class BadArchive(ValueError):
    """It is no tar archive, or one with something in it that is not supported; the message says what."""


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    LINK = "link"
    OTHER = "other"  # a device or FIFO


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.LINK, b"2": Kind.SYMLINK, b"5": Kind.DIRECTORY,
    b"3": Kind.OTHER, b"4": Kind.OTHER, b"6": Kind.OTHER,
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """What stands before a member's content."""

    name: bytes
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0  # bytes of content that follow
    target: bytes = b""  # of a symlink or link


@dataclass
class _Extension:
    """What pax headers and GNU's long names say of the next member."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes | None = None
    target: bytes | None = None


Event = Member | bytes | memoryview
"""A member; then its content, piece by piece."""


class TarReader:
    """Takes an archive piece by piece, and gives what is in it."""

    def __init__(self) -> None:
        self._held = bytearray()  # the beginning of a block, or of an extension
        self._content = 0  # bytes of the member's content that are yet to come
        self._padding = 0  # bytes behind it
        self._extends: tuple[bytes, int] | None = None  # type and size of the extension being read
        self._next = _Extension()
        self._extension_bytes = 0  # of all extensions before a member
        self._global: dict[bytes, bytes] = {}
        self._zeros = 0  # blocks of them in a row
        self.ended = False  # its end blocks were seen; what follows is passed over

    def feed(self, data: bytes | memoryview) -> list[Event]:
        """Raises BadArchive."""
        events: list[Event] = []
        view = memoryview(data)
        while len(view) and not self.ended:
            if self._content:
                events.append(view[: self._content])
                taken = min(self._content, len(view))
                self._content -= taken
            elif self._padding:
                taken = min(self._padding, len(view))
                self._padding -= taken
            else:
                wanted = BLOCK if self._extends is None else self._extends[1]
                taken = min(wanted - len(self._held), len(view))
                self._held += view[:taken]
                if len(self._held) == wanted:
                    whole = bytes(self._held)
                    self._held.clear()
                    self._take(whole, events)
            view = view[taken:]
        return events

    def finish(self) -> None:
        """The archive ends here. Raises BadArchive where it is cut."""
        if self._content or self._padding or self._held or self._extends or self._next != _Extension():
            raise BadArchive("it is cut")

    def _take(self, whole: bytes, events: list[Event]) -> None:
        if self._extends is not None:
            kind, self._extends = self._extends[0], None
            self._extend(kind, whole)
        elif not any(whole):
            self._zeros += 1
            self.ended = self._zeros == 2
        else:
            self._zeros = 0
            self._header(whole, events)

    def _header(self, block: bytes, events: list[Event]) -> None:
        _check_sum(block)
        type_, size = block[156:157], _number(block[124:136])
        if not 0 <= size <= _SIZE_LIMIT:
            raise BadArchive("a size is out of bounds")
        if type_ in (_PAX, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK):
            if not 0 < size <= _EXTENSION_LIMIT:
                raise BadArchive(f"an extended header is empty or larger than {_EXTENSION_LIMIT} bytes")
            self._extension_bytes += size if type_ != _PAX_GLOBAL else 0  # of those the last counts, whatever came before
            if self._extension_bytes > _EXTENSION_LIMIT:
                raise BadArchive(f"the extended headers of one member are larger than {_EXTENSION_LIMIT} bytes")
            self._extends = type_, size
            self._padding = 0
            return
        member = self._member(block, type_, size)
        self._next = _Extension()
        self._extension_bytes = 0
        self._content, self._padding = member.size, -member.size % BLOCK
        events.append(member)

    def _extend(self, type_: bytes, content: bytes) -> None:
        self._padding = -len(content) % BLOCK
        if type_ == _GNU_LONG_NAME:
            self._next.name = _text(content)
        elif type_ == _GNU_LONG_LINK:
            self._next.target = _text(content)
        elif type_ == _PAX:
            self._next.records |= _records(content)
        else:
            self._global |= _records(content)

    def _member(self, block: bytes, type_: bytes, size: int) -> Member:
        records = {**self._global, **self._next.records}
        if type_ == b"S":
            raise BadArchive(_SPARSE)
        kind = _KINDS.get(type_)
        if kind is None:
            raise BadArchive(f"it holds a member of the unknown type {type_!r}")
        name = records.get(b"path", self._next.name or _name(block))
        target = records.get(b"linkpath", self._next.target or _text(block[157:257]))
        if kind is Kind.FILE and name.endswith(b"/") and type_ != b"7":
            kind = Kind.DIRECTORY  # as before POSIX had a type for them
        if b"size" in records:
            size = _decimal(records[b"size"])
        mtime_ns = _nanoseconds(records[b"mtime"]) if b"mtime" in records else _number(block[136:148]) * 1_000_000_000
        if abs(mtime_ns) > 1 << 62:
            raise BadArchive("a time is out of bounds")
        if b"\0" in name or b"\0" in target:
            raise BadArchive("a name has a NUL in it")
        if kind is not Kind.FILE and kind is not Kind.LINK and kind is not Kind.DIRECTORY and size:
            raise BadArchive("a member that can have no content has some")
        # A hard link of pax may carry its content again; a directory's size is a hint of old for how much it may hold.
        size = 0 if kind is Kind.DIRECTORY else size
        return Member(name, kind, _number(block[100:108]) & 0o7777, mtime_ns, size, target)


def _check_sum(block: bytes) -> None:
    plain = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    said = _number(block[148:156])
    if said != plain:
        signed = plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])  # some old archivers summed signed characters
        if said != signed:
            raise BadArchive("a header's checksum is wrong")


def _text(field_: bytes) -> bytes:
    return field_.partition(b"\0")[0]


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _number(field_: bytes) -> int:
    if field_[0] in (0x80, 0xFF):  # GNU's base 256
        value = int.from_bytes(field_[1:], "big")
        return value if field_[0] == 0x80 else value - (1 << 8 * (len(field_) - 1))
    digits = _text(field_).strip(b" ")
    if not digits:
        return 0
    if not all(byte in b"01234567" for byte in digits):
        raise BadArchive("a number in a header is none")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise BadArchive("a number in an extended header is none")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    sign, digits = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    seconds, _, fraction = digits.partition(b".")
    if len(fraction) > 30 or (fraction and not fraction.isdigit()):
        raise BadArchive("a time in an extended header is none")
    return sign * (_decimal(seconds) * 1_000_000_000 + int((fraction + b"0" * 9)[:9]))


def _records(content: bytes) -> dict[bytes, bytes]:
    """`length key=value\\n`…; NULs may follow."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        space = content.find(b" ", at, at + 20)
        length = _decimal(content[at:space]) if space > 0 else 0
        if length <= space - at + 2 or at + length > len(content) or content[at + length - 1 : at + length] != b"\n":
            raise BadArchive("an extended header's record has another length than it says")
        key, equals, value = content[space + 1 : at + length - 1].partition(b"=")
        if not equals:
            raise BadArchive("an extended header's record has no value")
        if key.startswith(b"GNU.sparse"):
            raise BadArchive(_SPARSE)
        if key in _KNOWN:  # others would be held, and gone through for each member, for nothing
            records[key] = value
        at += length
    return records
