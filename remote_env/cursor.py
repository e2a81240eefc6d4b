"""How far one stream of an execution's output was seen: no byte twice, none missing, and in the end all of them right."""

from __future__ import annotations

import hashlib

from remote_env.events import STREAMS, Gap, OutputPiece, StreamName
from remote_env.protocol import Execution, Output
from remote_env.sse import Garbled


class Cursor:
    """Offsets count the whole output, not what is kept of it. `offset` None: it begins wherever the output stands."""

    def __init__(self, stream: StreamName, offset: int | None) -> None:
        self.stream = stream
        self._offset: int | None = None  # up to here it was seen
        self.began_at = 0  # once it is placed
        self._held = b""  # the beginning of a character whose rest has not come: here, but not seen
        self._digest = hashlib.sha256()
        self._complete = False  # whether the digest is of the whole output so far
        if offset is not None:
            self.begin(offset)

    @property
    def placed(self) -> bool:
        """Whether it is known where it stands."""
        return self._offset is not None

    @property
    def offset(self) -> int:
        """The first byte that was not seen. Raises RuntimeError while that is not known."""
        if self._offset is None:
            raise RuntimeError(f"where {self.stream} stands is not known yet")
        return self._offset

    @property
    def wanted(self) -> int:
        """The first byte that is not here."""
        return self.offset + len(self._held)

    def begin(self, offset: int) -> None:
        """Where it stands, unless that is known."""
        if self._offset is None:
            self._offset = self.began_at = offset
            self._complete = offset == 0

    def forget_held(self) -> None:
        """What is held will come again, with the rest of its character."""
        self._held = b""

    def take(self, offset: int, data: bytes, *, torn: bool = False) -> list[OutputPiece]:
        """What of these bytes is new. `torn`: they may end within a character, whose beginning is then held.

        Raises Garbled when bytes before them are missing.
        """
        if offset > self.wanted:
            raise Garbled(f"{self.stream} goes on at byte {offset}, and only {self.wanted} have come")
        data = self._held + data[self.wanted - offset :]
        whole = len(data) - (torn_bytes(data) if torn else 0)
        self._held = data[whole:]
        return self._see(data[:whole])

    def skip(self, start: int, end: int) -> list[OutputPiece | Gap]:
        """Bytes [start, end) will not come. Raises Garbled when bytes before them are missing."""
        if start > self.wanted:
            raise Garbled(f"{self.stream} has a gap at byte {start}, and only {self.wanted} have come")
        if end <= self.wanted:
            return []
        released = self.release()
        gap = Gap(self.stream, self.offset, end)
        self._offset, self._complete = end, False
        return [*released, gap]

    def release(self) -> list[OutputPiece]:
        """What is held, when no more of its character will come."""
        held, self._held = self._held, b""
        return self._see(held)

    def objection(self, output: Output) -> str | None:
        """What is wrong with what was seen, now that it is known what there was; None when nothing is."""
        if self.offset != output.total_bytes:
            return f"{self.offset} bytes of {self.stream} went by, {output.total_bytes} were written"
        if self._complete and output.kept_bytes == output.total_bytes and output.sha256 not in (None, self._digest.hexdigest()):
            return f"{self.stream} went by with another sha256 than it was kept with"
        return None

    def _see(self, data: bytes) -> list[OutputPiece]:
        if not data:
            return []
        piece = OutputPiece(self.stream, self.offset, data)
        self._digest.update(data)
        self._offset = piece.end
        return [piece]


def torn_bytes(data: bytes) -> int:
    """How many bytes at its end begin a UTF-8 character that is not whole: 0 to 3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < needed and byte < 0xF5 else 0
        if byte < 0x80:
            return 0
    return 0


def parse_position(text: str, streams: str) -> tuple[int, ...]:
    """The offsets in a position ("12", or "12,34" where streams are split). Raises Garbled."""
    words = text.split(",")
    if len(words) != len(STREAMS[streams]) or not all(word.isascii() and word.isdigit() and len(word) <= 18 for word in words):
        raise Garbled(f"{text!r} is no position in the output of an execution whose streams are {streams}")
    return tuple(int(word) for word in words)


def output_of(record: Execution, stream: StreamName) -> Output:
    """What the record says of this stream."""
    return (record.stderr or Output()) if stream == "stderr" else record.output


def gap_of(output: Output) -> tuple[int, int]:
    """What of the whole output is not kept; an empty stretch at its end where all is."""
    if output.purged:
        return 0, output.total_bytes
    if output.gap is not None:
        return output.gap
    return output.kept_bytes, output.total_bytes
