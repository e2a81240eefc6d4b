"""Reading a tar stream as it comes, without I/O: `tarfile` wants a file to read from, and there is none that a coroutine could
await. Headers are parsed by `tarfile` itself."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from remote_env.hashed import CutShort, Damage, Piece

BLOCK = tarfile.BLOCKSIZE
_LONGEST_EXTRA = 1 << 20  # bytes of the extended headers of one entry: names and times, no content
_EXTRA = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Content:
    """A part of the content of the entry that came last."""

    data: Piece


Event = tarfile.TarInfo | Content


class TarReader:
    """Feed it what has come; it gives each entry, and behind each regular file's entry its content in parts."""

    def __init__(self) -> None:
        self.ended = False  # whether the archive's own end has come; what follows it is not looked at
        self._head = bytearray()  # of a block, or of an extended header and its padding
        self._extra: tarfile.TarInfo | None = None  # the extended header that is being read
        self._said: dict[str, str] = {}  # by extended headers, of the next entry
        self._extra_bytes = 0  # of those
        self._content = 0  # bytes that are still to come of the current file
        self._padding = 0

    def feed(self, data: Piece) -> Iterator[Event]:
        """Raises Damage for what is no tar."""
        left = memoryview(data)
        while left and not self.ended:
            if self._content:
                part, left = left[: self._content], left[self._content :]
                self._content -= len(part)
                yield Content(part)
            elif self._padding:
                skipped = min(self._padding, len(left))
                self._padding -= skipped
                left = left[skipped:]
            else:
                wanted = (BLOCK if self._extra is None else _padded(self._extra.size)) - len(self._head)
                self._head += left[:wanted]
                left = left[wanted:]
                if len(self._head) == (BLOCK if self._extra is None else _padded(self._extra.size)):
                    block, self._head = bytes(self._head), bytearray()
                    yield from self._block(block)

    def finish(self) -> None:
        """Raises CutShort where the archive has not come to its end."""
        if not self.ended:
            raise CutShort("the tar ends in its middle")

    def _block(self, block: bytes) -> Iterator[Event]:
        if self._extra is not None:
            self._learn(self._extra, block[: self._extra.size])
            self._extra = None
            return
        if not any(block):
            self.ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise Damage(f"no header of a tar: {error}") from error
        if info.type in _EXTRA:
            if not 0 < info.size <= _LONGEST_EXTRA:
                raise Damage(f"an extended header of {info.size} bytes")
            self._extra_bytes += info.size
            if self._extra_bytes > _LONGEST_EXTRA:
                raise Damage("the extended headers of one entry are too long")
            self._extra = info
            return
        self._extra_bytes = 0
        self._apply(info)
        if info.type in _FILES:
            self._content, self._padding = info.size, _padded(info.size) - info.size
        yield info

    def _learn(self, extra: tarfile.TarInfo, content: bytes) -> None:
        if extra.type == tarfile.XGLTYPE:
            return  # of the archive as a whole: nothing that we need
        if extra.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if extra.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            self._said[key] = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return
        while content:
            length, space, _ = content.partition(b" ")
            if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(content):
                raise Damage("an extended header that cannot be read")
            key_bytes, equals, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
            if not equals:
                raise Damage("an extended header that cannot be read")
            self._said[key_bytes.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            content = content[int(length) :]

    def _apply(self, info: tarfile.TarInfo) -> None:
        said, self._said = self._said, {}
        info.pax_headers = said
        info.name = said.get("path", info.name).rstrip("/") or info.name
        info.linkname = said.get("linkpath", info.linkname)
        try:
            info.size = int(said.get("size", info.size))
            info.mtime = float(said.get("mtime", info.mtime))
        except ValueError as error:
            raise Damage(f"an extended header that cannot be read: {error}") from error
        if info.size < 0:
            raise Damage(f"a file of {info.size} bytes")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
