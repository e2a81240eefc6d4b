"""One WebSocket to an execution's terminal, for a loop that waits for several things at once: no thread, nothing blocks.

    link = TerminalLink.open(endpoint, token, record, offset=0, timings=timings)
    select([link], [link] if link.wants_write else [], [], link.due_s(now))
    link.flush(); messages = link.receive(); link.tick(now)

What came is At, Said, Missing or Over. Whatever breaks it is a LinkBroken; what the server will not do is a LinkRefused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from remote_env.config import Endpoint
from remote_env.correlation import About
from remote_env.dial import DialError, dial
from remote_env.errors import InvalidSpec
from remote_env.pool import socket_options
from remote_env.protocol import EPOCH_HEADER, INPUT_LIMIT, TERMINAL_SUBPROTOCOL, Execution
from remote_env.timings import Timings
from remote_env.trace import trace

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

PING_S = 15.0  # between two of ours
PONG_S = 20.0  # of silence after one: the link is dead
_HANDSHAKE_S = 10.0
_GREETING_BYTES = 64 << 10
_READ_BYTES = 256 << 10
_MESSAGE_LIMIT = 16 << 20  # bytes of one message of the server's: the end carries an execution with its inline output
_PROBLEM_CODES = range(4400, 4500)  # of a close: 4000 + the HTTP status that the problem would have had
_GOING_AWAY = (1001, 1012)

log = logging.getLogger("remote_env")


@dataclass(frozen=True)
class At:
    """The output that follows begins at `offset`; `typed` bytes of input had come when this was said, None: nobody knows."""

    offset: int
    typed: int | None


@dataclass(frozen=True)
class Said:
    """Output."""

    data: bytes


@dataclass(frozen=True)
class Missing:
    """Output that is not kept any more, up to that offset."""

    end: int


@dataclass(frozen=True)
class Over:
    """The execution has ended, and all of its output has come."""

    record: Execution


Message = At | Said | Missing | Over


class LinkBroken(Exception):
    """It does not stand any more, or was never made; another may. `stopping`: the server said that it goes away."""

    def __init__(self, reason: str, *, stopping: bool = False) -> None:
        super().__init__(reason)
        self.stopping = stopping


class LinkRefused(Exception):
    """The server will not have it. `status` is that of HTTP: 401, 404, 409, 410, 412."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason or f"HTTP {status}")
        self.status = status


class TerminalLink:
    """Made by `open`. It is of one thread."""

    def __init__(self, sock: socket.socket, protocol: ClientProtocol, about: About) -> None:
        self._sock = sock
        self._protocol = protocol
        self._about = about
        self._outgoing = bytearray()
        self._pinged_at = time.monotonic()
        self._silent_since: float | None = None  # since a ping, while nothing has come
        self._fragments: list[bytes] = []
        self._text = False
        self._eof = False

    @classmethod
    def open(
        cls, endpoint: Endpoint, token: str | None, record: Execution, *, offset: int | None, timings: Timings
    ) -> TerminalLink:  # fmt: skip
        """Connects and shakes hands. `offset`: of the output, where to begin; None: with what comes from now on.

        Raises LinkBroken, LinkRefused, InvalidSpec (this installation has no WebSockets).
        """
        client, uri, request = _handshake(endpoint, token, record, offset)
        sock = _connected(endpoint, timings.connect_s)
        link = cls(sock, client, About(record.id, record.sandbox_id, record.epoch))
        try:
            client.send_request(request)
            link._shake_hands()
        except BaseException:  # a signal that tells us to go, too
            sock.close()
            raise
        trace("terminal", "execution %s: %s from %s: open", record.id, uri, offset)
        return link

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        return bool(self._outgoing)

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._outgoing)

    @property
    def has_more(self) -> bool:
        """Whether something can be read that no `select` tells of: TLS has it already."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    # --------------------------------------------------------------------------------------------------- outgoing

    def send(self, data: bytes) -> None:
        """Input for the terminal. Goes out by `flush`."""
        for start in range(0, len(data), INPUT_LIMIT):
            self._protocol.send_binary(data[start : start + INPUT_LIMIT])
        self._collect()

    def resize(self, rows: int, cols: int) -> None:
        self._protocol.send_text(json.dumps({"type": "resize", "rows": rows, "cols": cols}).encode())
        self._collect()

    def flush(self) -> None:
        """Sends what the socket takes now. Raises LinkBroken."""
        try:
            while self._outgoing:
                sent = self._sock.send(self._outgoing)
                del self._outgoing[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return
        except OSError as error:
            raise LinkBroken(f"{type(error).__name__}: {error}") from error

    def due_s(self, now: float) -> float:
        """In how many seconds `tick` has something to do."""
        due = self._pinged_at + PING_S
        if self._silent_since is not None:
            due = min(due, self._silent_since + PONG_S)
        return max(0.0, due - now)

    def tick(self, now: float) -> None:
        """Pings, and notices that nobody answers. Raises LinkBroken."""
        if self._silent_since is not None and now - self._silent_since >= PONG_S:
            raise LinkBroken(f"no sign of life for {now - self._silent_since:.0f} s")
        if now - self._pinged_at >= PING_S:
            self._protocol.send_ping(b"")
            self._pinged_at = now
            if self._silent_since is None:
                self._silent_since = now
            self._collect()

    def close(self, code: int = 1000) -> None:
        """Says goodbye as far as the socket takes it, and lets go of it."""
        from websockets.exceptions import InvalidState

        try:
            self._protocol.send_close(code)
            self._collect()
            self.flush()
        except (InvalidState, LinkBroken) as error:
            log.debug("execution %s: its terminal's link needs no goodbye: %s", self._about.execution_id, error)
        self._log_close()
        self._sock.close()

    # --------------------------------------------------------------------------------------------------- incoming

    def receive(self) -> list[Message]:
        """What has come since; perhaps nothing. Raises LinkBroken, LinkRefused."""
        self._read()
        messages = [message for event in self._protocol.events_received() for message in self._messages(event)]
        self._collect()
        if messages and isinstance(messages[-1], Over):
            return messages
        if self._eof or self._protocol.close_rcvd is not None or self._protocol.parser_exc is not None:
            if messages:
                return messages  # and what has broken is told by the next call
            self._log_close()
            raise self._broken()
        return messages

    def _read(self) -> None:
        if self._eof:
            return
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            raise LinkBroken(f"{type(error).__name__}: {error}") from error
        self._silent_since = None
        if data:
            self._protocol.receive_data(data)
        else:
            self._eof = True
            self._protocol.receive_eof()

    def _messages(self, event: Any) -> Iterator[Message]:
        from websockets.frames import Frame, Opcode

        if not isinstance(event, Frame) or event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        if event.opcode is not Opcode.CONT:
            self._fragments, self._text = [], event.opcode is Opcode.TEXT
        if not self._text:
            yield Said(bytes(event.data))
            return
        self._fragments.append(bytes(event.data))
        if event.fin:
            message = self._told(b"".join(self._fragments))
            self._fragments = []
            if message is not None:
                yield message

    def _told(self, text: bytes) -> Message | None:
        """None for what a newer server says and we need not know. Raises LinkBroken."""
        try:
            said = json.loads(text)
            if said["type"] == "at":
                typed = said.get("input")
                return At(int(said["offset"]), None if typed is None else int(typed))
            if said["type"] == "gap":
                return Missing(int(said["to"]))
            if said["type"] != "ended":
                return None
            record = Execution.model_validate(said["execution"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise LinkBroken(f"what came is not remote-env's: {type(error).__name__}") from error
        wrong = self._about.wrong_body(record)
        if wrong is not None:
            raise LinkBroken(wrong)
        return Over(record)

    def _broken(self) -> LinkBroken | LinkRefused:
        closed = self._protocol.close_rcvd
        if closed is None:
            error = self._protocol.parser_exc
            return LinkBroken(f"{type(error).__name__}: {error}" if error and not self._eof else "the connection ended")
        if closed.code in _PROBLEM_CODES:
            return LinkRefused(closed.code - 4000, closed.reason)
        return LinkBroken(f"closed with {closed.code}{f' ({closed.reason})' if closed.reason else ''}", stopping=closed.code in _GOING_AWAY)

    def _log_close(self) -> None:
        received, sent = self._protocol.close_rcvd, self._protocol.close_sent
        log.info(
            "execution %s: its terminal's link was closed (code received: %s, sent: %s)",
            self._about.execution_id, received.code if received else "none", sent.code if sent else "none",
        )  # fmt: skip

    def _collect(self) -> None:
        for piece in self._protocol.data_to_send():
            self._outgoing += piece

    # -------------------------------------------------------------------------------------------------- handshake

    def _shake_hands(self) -> None:
        """Raises LinkBroken, LinkRefused."""
        self._collect()
        until = time.monotonic() + _HANDSHAKE_S
        answer: Any = None
        while answer is None:
            left = until - time.monotonic()
            if left <= 0:
                raise LinkBroken(f"no answer for {_HANDSHAKE_S:.0f} s")
            self.flush()
            if not self.has_more:
                select.select([self._sock], [self._sock] if self._outgoing else [], [], left)
            # Not a byte beyond the head: what follows it are messages, for `receive`.
            self._read_head()
            answer = next((event for event in self._protocol.events_received() if hasattr(event, "status_code")), None)
            if answer is None and (self._eof or self._protocol.handshake_exc is not None):
                raise LinkBroken(f"no WebSocket: {self._protocol.handshake_exc or 'the connection ended'}")
        if answer.status_code != 101:
            body = (answer.body or b"")[:_GREETING_BYTES]
            raise _refusal(answer.status_code, bytes(body))
        if self._protocol.handshake_exc is not None or self._protocol.subprotocol != TERMINAL_SUBPROTOCOL:
            raise LinkBroken(f"no WebSocket of remote-env's: {self._protocol.handshake_exc or 'another subprotocol'}")

    def _read_head(self) -> None:
        try:
            data = self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            raise LinkBroken(f"{type(error).__name__}: {error}") from error
        if data:
            self._protocol.receive_data(data)
        else:
            self._eof = True
            self._protocol.receive_eof()


def require_websockets() -> None:
    """Raises InvalidSpec where this installation has none."""
    try:
        import websockets.client  # noqa: F401
    except ImportError as error:
        raise InvalidSpec(
            f"A terminal needs the package `websockets`, and it is not there ({error}): pip install 'remote-env[shell]'. Nothing was run."
        ) from None


def _handshake(endpoint: Endpoint, token: str | None, record: Execution, offset: int | None) -> tuple[ClientProtocol, str, Any]:
    require_websockets()
    from websockets.client import ClientProtocol
    from websockets.typing import Subprotocol
    from websockets.uri import parse_uri

    path = f"/v1/executions/{record.id}/terminal" + ("" if offset is None else f"?from={offset}")
    # ws even over TLS, which is set up here, with the certificate pinned where that is asked for, before a header is sent.
    uri = f"ws{endpoint.url.removeprefix('https').removeprefix('http')}{path}"
    client = ClientProtocol(parse_uri(uri), subprotocols=[Subprotocol(TERMINAL_SUBPROTOCOL)], max_size=_MESSAGE_LIMIT)
    client.debug = False  # its debug log would have the token in it
    request = client.connect()
    request.headers[EPOCH_HEADER] = record.epoch
    if token:
        request.headers["Authorization"] = f"Bearer {token}"
    return client, path, request


def _connected(endpoint: Endpoint, connect_s: float) -> socket.socket:
    """A connected socket that does not block. Raises LinkBroken."""
    parts = urlsplit(endpoint.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        sock, _ = dial(host, port, connect_s, socket_options(), begun=lambda sock: None, ended=lambda sock: None)
    except DialError as error:
        raise LinkBroken(str(error)) from error
    try:
        sock.settimeout(_HANDSHAKE_S)
        if parts.scheme == "https":
            sock = _secured(sock, endpoint, host)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise LinkBroken(f"{type(error).__name__}: {error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, endpoint: Endpoint, host: str) -> socket.socket:
    context = endpoint.tls.context()
    context.check_hostname = endpoint.tls.fingerprint is None
    secured = context.wrap_socket(sock, server_hostname=host)
    certificate = secured.getpeercert(binary_form=True) or b""
    if endpoint.tls.fingerprint is not None and hashlib.sha256(certificate).hexdigest() != endpoint.tls.fingerprint:
        secured.close()
        raise LinkBroken("the server's certificate has another fingerprint; nothing was sent")
    return secured


def _refusal(status: int, body: bytes) -> LinkBroken | LinkRefused:
    """What an answer other than 101 means: of a proxy's, or of a server's that is busy or stops, that it may be tried again."""
    try:
        problem = json.loads(body)
        reason, retryable = f"{problem['code']}: {problem['detail']}", bool(problem["retryable"])
    except (ValueError, KeyError, TypeError):
        reason, retryable = f"HTTP {status}", status >= 500 or status == 429
    return LinkBroken(reason) if retryable else LinkRefused(status, reason)
