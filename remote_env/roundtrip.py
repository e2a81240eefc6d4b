"""One request and its whole answer over a connection that stands: the bytes out in one go, the answer's back, nothing between.

It is every command's path. `requests`, urllib3 and `http.client` together take longer over a small answer than the server takes to
run the command, for what no answer of ours has: cookies, redirects, charsets, MIME. What is not as a server of ours sends it (chunks,
no length: somebody stands in between) is read by `http.client` after all, and read strictly by both: an answer that was cut
anywhere, or is no HTTP, raises.
"""

from __future__ import annotations

import io
import re
import socket
from collections.abc import Iterator, Mapping
from http.client import BadStatusLine, HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any, NamedTuple
from urllib.parse import quote

_HEAD_LIMIT = 64 << 10  # bytes
_RECEIVE = 64 << 10  # bytes at most in one go
_SEND = 256 << 10  # bytes: the time limit is one for so many of them, not for however many a request has
_LENGTH_DIGITS = 18
_VERSION = b"HTTP/1."
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)")
_TARGET = re.compile(r"[!-~]+")
_IN_TARGETS = "!#$%&'()*+,/:;=?@[]~"  # what stands in one as it is
_BODILESS = frozenset({204, 304})


class Headers(Mapping[str, str]):
    """An answer's headers, found whatever their case. One that came several times is a list, as HTTP has them."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def add(self, name: str, value: str) -> None:
        name = name.lower()
        before = self._values.get(name)
        self._values[name] = value if before is None else f"{before}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    reusable: bool  # whether the connection may serve another request


def request_bytes(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request as it goes over the wire. Raises ValueError for what could be taken for more than one header."""
    if not _TARGET.fullmatch(target):
        target = quote(target, safe=_IN_TARGETS)
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\0" in head:
        raise ValueError("a header holds a line break or NUL")
    return head.encode("latin-1") + b"\r\n\r\n" + (body or b"")


def round_trip(sock: socket.socket, request: bytes, *, is_head: bool = False) -> Answer:
    """Send the request and read the whole answer; both keep to the socket's timeout. Raises OSError, HTTPException: whatever is
    raised, the connection is of no more use."""
    try:
        _send(sock, request)
    except (BrokenPipeError, ConnectionResetError) as error:
        # The peer reads no more of it; it may have said why, as of a body that is too long.
        try:
            return _answer(sock, is_head)._replace(reusable=False)
        except (OSError, HTTPException):
            raise error from None
    return _answer(sock, is_head)


def _send(sock: socket.socket, request: bytes) -> None:
    if len(request) <= _SEND:
        sock.sendall(request)
        return
    view = memoryview(request)
    for start in range(0, len(view), _SEND):
        sock.sendall(view[start : start + _SEND])


def _answer(sock: socket.socket, is_head: bool) -> Answer:
    data = sock.recv(_RECEIVE)
    while True:
        head, data = _head(sock, data)
        status, version, headers = _parsed(head)
        if status >= 200:
            break  # before that: what a proxy says while it waits
    length = headers.get("content-length")
    if is_head or status in _BODILESS:
        length = "0"
    elif length is None or "transfer-encoding" in headers:
        return _unusual(sock, head + b"\r\n\r\n" + data)
    elif not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS):
        raise HTTPException(f"a length that is none: {length[:64]!r}")
    body = _body(sock, data, int(length))
    connection = headers.get("connection", "").lower()
    persistent = "close" not in connection if version else "keep-alive" in connection
    return Answer(status, headers, body, persistent and len(data) <= int(length))


def _head(sock: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """The next head, without the empty line that ends it, and what has come of what follows."""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if not data.startswith(_VERSION[: len(data)]):
            raise BadStatusLine(repr(data[:64]))
        if len(data) > _HEAD_LIMIT:
            raise HTTPException("the head of the answer does not end")
        more = sock.recv(_RECEIVE)
        if not more:
            raise RemoteDisconnected("the connection ended within the head of the answer")
        data += more
    return data[:end], data[end + 4 :]


def _parsed(head: bytes) -> tuple[int, bool, Headers]:
    """(status, HTTP/1.1?, headers)."""
    lines = head.decode("latin-1").split("\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise BadStatusLine(repr(lines[0][:64]))
    headers = Headers()
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise HTTPException("a line in the head of the answer is no header")
        headers.add(header[1], header[2].strip(" \t"))
    return int(status_line[2]), status_line[1] == "1", headers


def _body(sock: socket.socket, data: bytes, length: int) -> bytes:
    if len(data) >= length:
        return data[:length]
    pieces, missing = [data], length - len(data)
    while missing:
        piece = sock.recv(min(missing, _RECEIVE))
        if not piece:
            raise RemoteDisconnected(f"the answer was cut: {length - missing} of {length} bytes")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _unusual(sock: socket.socket, data: bytes) -> Answer:
    """What has chunks, or lasts until the connection ends."""
    response = HTTPResponse(_Begun(sock, data))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read()
    except (ValueError, OverflowError, MemoryError) as error:  # of a length that is none, or that nothing has
        raise HTTPException(f"an answer that cannot be read: {type(error).__name__}: {error}") from error
    finally:
        response.close()
    headers = Headers()
    for name, value in response.getheaders():
        headers.add(name, value)
    return Answer(response.status, headers, body, not response.will_close)


class _Begun(io.RawIOBase):
    """A connection of which some was read already, as `http.client` wants it."""

    def __init__(self, sock: socket.socket, data: bytes) -> None:
        self._sock = sock
        self._data = data

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._data:
            return self._sock.recv_into(buffer)
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count
