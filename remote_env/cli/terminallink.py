"""One WebSocket to an execution's terminal, for a loop that waits for several things at once: no thread, nothing blocks.

    link = TerminalLink.open(endpoint, token, record, offset=0, timings=timings)
    select([link], [link] if link.wants_write else [], [], link.due_s(now))
    link.flush(); messages = link.receive(); link.tick(now)

What came is At, Said, Missing or Over. Whatever breaks it is a LinkBroken; what the server will not do is a LinkRefused.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from remote_env.cli.terminaldial import HANDSHAKE_S, SUBPROTOCOLS, LinkBroken, LinkRefused, connected, handshake, refusal
from remote_env.config import Endpoint
from remote_env.correlation import About
from remote_env.protocol import (
    COUNTED_SUBPROTOCOL,
    INPUT_LIMIT,
    TYPIST_OFFSET_BYTES,
    Execution,
)
from remote_env.timings import Timings
from remote_env.trace import trace

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

PING_S = 15.0  # between two of ours
PONG_S = 20.0  # of silence after one: the link is dead
_GREETING_BYTES = 64 << 10
_READ_BYTES = 256 << 10
_PROBLEM_CODES = range(4400, 4500)  # of a close: 4000 + the HTTP status that the problem would have had
_GOING_AWAY = (1001, 1012)

log = logging.getLogger("remote_env")


@dataclass(frozen=True)
class At:
    """The output that follows begins at `offset`; `typed` bytes of input had come when this was said (of the typist's, where the
    link counts), None: nobody knows."""

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
        cls, endpoint: Endpoint, token: str | None, record: Execution, *, offset: int | None, typist: str, timings: Timings
    ) -> TerminalLink:
        """Connects and shakes hands. `offset`: of the output, where to begin; None: with what comes from now on. `typist`: an id, one
        for all the links over which somebody's input goes on.

        Raises LinkBroken, LinkRefused, InvalidSpec (this installation has no WebSockets).
        """
        client, uri, request = handshake(endpoint, token, record, offset, typist)
        sock = connected(endpoint, timings.connect_s)
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

    @property
    def counts(self) -> bool:
        """Whether the server counts this typist's input, and drops what comes twice. Older servers do not."""
        return self._protocol.subprotocol == COUNTED_SUBPROTOCOL

    def send(self, data: bytes, offset: int | None = None) -> None:
        """Input for the terminal. Goes out by `flush`. `offset`: bytes that the typist has sent before; of a link that counts."""
        for start in range(0, len(data), INPUT_LIMIT):
            place = (offset + start).to_bytes(TYPIST_OFFSET_BYTES, "big") if self.counts and offset is not None else b""
            self._protocol.send_binary(place + data[start : start + INPUT_LIMIT])
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
        until = time.monotonic() + HANDSHAKE_S
        answer: Any = None
        while answer is None:
            left = until - time.monotonic()
            if left <= 0:
                raise LinkBroken(f"no answer for {HANDSHAKE_S:.0f} s")
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
            raise refusal(answer.status_code, bytes(body))
        if self._protocol.handshake_exc is not None or self._protocol.subprotocol not in SUBPROTOCOLS:
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
