"""Server-sent events, as bytes come off a socket: cut anywhere, and not to be trusted.

As the WHATWG's "event stream interpretation" has it, but for two things: what is not UTF-8 is refused rather than
replaced, and an event has a size that it may not exceed. Besides, an event may carry a checksum; on a connection where
one did, all must, and one that is wrong is an end of the stream like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from remote_env.digest import EVENT_CHECK, event_check

MESSAGE_LIMIT = 8 << 20  # bytes of one event: an `end` with two inline outputs, each character escaped, has a good 3 MiB
_BOM = b"\xef\xbb\xbf"


class Garbled(ValueError):
    """What came is no stream of ours: not UTF-8, not JSON, too long, or it contradicts what came before."""


@dataclass(frozen=True)
class Message:
    """One event as the stream has it. `id` is that of the last event that carried one."""

    event: str
    data: str
    id: str | None = None


class SseParser:
    """Of one connection. Feed it what the socket gives; an event that is cut off by the connection's end never shows."""

    def __init__(self, limit: int = MESSAGE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # of the line that has begun
        self._line_size = 0
        self._size = 0  # bytes of the event that has begun: of its whole lines
        self._after_cr = False  # a LF that comes next belongs to the CR before it
        self._first_line = True
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._own_id: str | None = None  # of the event that has begun
        self._check: bytes | None = None
        self._checked = False  # whether events of this connection carry checksums

    @property
    def begun(self) -> bool:
        """Whether an event is on its way: something other than a comment has come since the last one."""
        return self._size > 0 or (self._line_size > 0 and not self._parts[0].startswith(b":"))

    def feed(self, chunk: bytes) -> list[Message]:
        """The events that are whole with this chunk. Raises Garbled; the parser is of no use after that."""
        messages: list[Message] = []
        if not chunk:
            return messages
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        for part in chunk.splitlines(keepends=True):
            self._parts.append(part)
            self._line_size += len(part)
            if self._size + self._line_size > self._limit:
                raise Garbled(f"an event of more than {self._limit} bytes")
            if part.endswith((b"\n", b"\r")):
                line = b"".join(self._parts).rstrip(b"\r\n")
                if not line.startswith(b":"):
                    self._size += self._line_size
                self._parts.clear()
                self._line_size = 0
                message = self._take_line(line)
                if message is not None:
                    messages.append(message)
        return messages

    def _take_line(self, line: bytes) -> Message | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        if line.startswith(b":"):  # a comment
            return None
        name, _, value = line.partition(b":")
        try:
            text = value.removeprefix(b" ").decode()
        except UnicodeDecodeError as error:
            raise Garbled(f"not UTF-8: {error}") from None
        if name == b"event":
            self._event = text
        elif name == b"data":
            self._data.append(text)
        elif name == b"id" and "\0" not in text:
            self._id = self._own_id = text
        elif name == EVENT_CHECK:
            self._check = text.encode()
        return None

    def _dispatch(self) -> Message | None:
        event, data, own_id, check = self._event, "\n".join(self._data), self._own_id, self._check
        shows = bool(self._data)
        self._event, self._data, self._size, self._own_id, self._check = "", [], 0, None, None
        if check is not None or (self._checked and shows):
            self._checked = True
            if check != event_check(event.encode(), data.encode(), None if own_id is None else own_id.encode()):
                raise Garbled("an event was damaged: its checksum is another one, or missing")
        return Message(event or "message", data, self._id) if shows else None
