"""Where an HTTP/1.1 message ends (RFC 9112 §6.3): as much of the protocol as a proxy has to know."""

from __future__ import annotations

_LONGEST_HEAD = 1 << 20  # bytes


def content_length(head: bytes) -> int:
    """The Content-Length of a message head, 0 without."""
    value = header(head, b"content-length")
    return 0 if value is None else int(value)


def header(head: bytes, name: bytes) -> bytes | None:
    """The value of a header, None without; `name` in small letters."""
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip()
    return None


class ResponseEnd:
    """Finds the end of one response while its bytes go by, in whatever pieces they come.

    Args:
        method: of the request: what answers a HEAD has no body.
    Attributes:
        done: the response is whole. One that ends with its connection never is.
        begun: a byte of it has come.
    """

    def __init__(self, method: bytes) -> None:
        self.done = False
        self.begun = False
        self._method = method
        self._held = b""  # of a head or a line of the chunked coding that has not come whole
        self._state = "head"  # head, body, chunk-line, chunk, trailer, until-close
        self._left = 0  # bytes of the body or chunk that are still to come

    def feed(self, data: bytes) -> int:
        """How many of these bytes belong to the response: all of them unless it ends among them."""
        at = 0
        self.begun = self.begun or bool(data)
        while at < len(data) and not self.done:
            if self._state == "until-close":
                return len(data)
            if self._state in ("body", "chunk"):
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                if not self._left:
                    self.done = self._state == "body"
                    self._state = "chunk-line"
                continue
            mark = b"\r\n\r\n" if self._state == "head" else b"\r\n"
            before = len(self._held)
            self._held += data[at:]
            end = self._held.find(mark, max(0, before - len(mark) + 1))
            if end < 0:
                if len(self._held) > _LONGEST_HEAD:
                    raise ValueError("a head without an end")
                return len(data)
            line = self._held[: end + len(mark)]
            at += len(line) - before
            self._held = b""
            if self._state == "head":
                self._begin_body(line)
            else:
                self._next_chunk(line[:-2])
        return at

    def _begin_body(self, head: bytes) -> None:
        status = int(head.split(b" ", 2)[1])
        length = header(head, b"content-length")
        if 100 <= status < 200:
            return  # another head follows
        if self._method == b"HEAD" or status in (204, 304):
            self.done = True
        elif b"chunked" in (header(head, b"transfer-encoding") or b"").lower():
            self._state = "chunk-line"
        elif length is not None:
            self._state, self._left = "body", int(length)
            self.done = self._left == 0
        else:
            self._state = "until-close"

    def _next_chunk(self, line: bytes) -> None:
        if self._state == "trailer":
            self.done = line == b""
        elif line:  # empty: the line end after a chunk's bytes
            self._left = int(line.partition(b";")[0], 16)
            self._state = "chunk" if self._left else "trailer"
