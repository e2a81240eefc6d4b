"""The fake server with GET …/events: honest unless a test scripts what one connection says, and how it ends."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.unit.client.fakehttp import HttpHandler, Request
from tests.unit.client.fakeserver import FakeServer, Kept

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Remote-Env-Protocol": "1", "Cache-Control": "no-store, no-transform"}


class Wire:
    """One connection that asked for events. Leaving the script without `end_chunks` cuts it."""

    def __init__(self, server: StreamServer, handler: HttpHandler, request: Request, kept: Kept) -> None:
        self.server = server
        self.request = request
        self.kept = kept
        self._handler = handler
        self._begun = False

    @property
    def asked(self) -> int:
        """Where the client wants to begin."""
        if self.request.query.get("from") == "now":
            return len(self.kept.output)
        return int(self.request.headers.get("last-event-id", "0"))

    def begin(self, status: int = 200, **changed: str) -> None:
        record = self.kept.record
        about = {"X-Remote-Env-Execution": record.id, "X-Remote-Env-Sandbox": record.sandbox_id, "X-Remote-Env-Epoch": record.epoch}
        headers = {**HEADERS, **about, "Transfer-Encoding": "chunked"}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items() if value)]
        self._handler.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        self._begun = True

    def raw(self, data: bytes) -> None:
        """One chunk."""
        if not self._begun:
            self.begin()
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def say(self, event: str, id: str | None = None, /, **data: Any) -> None:
        self.raw(encoded(event, id, **data))

    def accept(self, position: int | None = None, **changed: Any) -> None:
        record = self.kept.record
        fields = {"id": record.id, "sandbox_id": record.sandbox_id, "epoch": record.epoch, "run_id": record.run_id, "streams": "merged"}
        self.say("accepted", None if position is None else str(position), **{**fields, "accepted_at": None, **changed})

    def output(self, offset: int, data: bytes) -> None:
        self.say("output", str(offset + len(data)), stream="merged", offset=offset, text=data.decode())

    def end(self) -> None:
        record = self.kept.record
        self.raw(b"event: end\ndata: %s\n\n" % record.model_dump_json().encode())
        self.end_chunks()

    def end_chunks(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def honest(self) -> None:
        """Everything from where the client wants to begin, as it comes, and the end."""
        at = self.asked
        self.accept(at)
        self.say("started", started_at=None)
        while data := self._more(at):
            self.output(at, data)
            at += len(data)
        if self.kept.record.over:
            self.end()

    def _more(self, at: int) -> bytes:
        """What comes next; nothing when nothing will."""
        with self.server.changed:
            self.server.wait_for(lambda: self.kept.record.over or len(self.kept.output) > at, 20)
            return self.kept.output[at : at + 1000]


Script = Callable[[Wire], object]  # what it returns is nobody's business


def encoded(event: str, id: str | None = None, /, **data: Any) -> bytes:
    head = "" if id is None else f"id: {id}\n"
    return f"{head}event: {event}\ndata: {json.dumps(data)}\n\n".encode()


class StreamServer(FakeServer):
    def __post_init__(self) -> None:
        self.scripts: deque[Script] = deque()
        super().__post_init__()
        self._http.RequestHandlerClass = _StreamHandler

    def script(self, *scripts: Script) -> None:
        """What the next connections that ask for events are told, one each."""
        self.scripts.extend(scripts)

    def asked(self) -> list[tuple[str | None, str | None]]:
        """Of each request for events: Last-Event-ID, `from`."""
        return [(request.headers.get("last-event-id"), request.query.get("from")) for request in self.seen("GET", "/events$")]


class _StreamHandler(HttpHandler):
    def _serve(self) -> None:
        if urlsplit(self.path).path.endswith("/events"):
            self._serve_events()
        else:
            super()._serve()

    def _serve_events(self) -> None:
        server = self.server.fake
        assert isinstance(server, StreamServer)
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        request = Request(self.command, parts.path, query, {name.lower(): value for name, value in self.headers.items()}, b"")
        self.close_connection = True
        fault = server.take_fault(request)
        if fault is not None:
            if fault.answer is not None:
                status, headers, content = fault.answer
                lines = [
                    f"HTTP/1.1 {status} -",
                    *(f"{name}: {value}" for name, value in headers.items()),
                    f"Content-Length: {len(content)}",
                ]
                self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            return
        with server.changed:
            script = server.scripts.popleft() if server.scripts else Wire.honest
            kept = server.executions[parts.path.split("/")[3]]
        script(Wire(server, self, request, kept))

    do_GET = do_POST = do_DELETE = do_PUT = _serve
