"""The HTTP of the fake server: requests read from sockets, its answers written to them, or the faults instead."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from tests.unit.client.fakeserver import FakeServer

Json = dict[str, Any]


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Json:
        return json.loads(self.body) if self.body else {}

    @property
    def wait_s(self) -> float:
        preferred = re.fullmatch(r"wait=([\d.]+)", self.headers.get("prefer", ""))
        return float(preferred[1]) if preferred else float(self.query.get("wait", 0))


class HttpServer(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them
    request_queue_size = 256

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        super().__init__(("127.0.0.1", 0), HttpHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.fake.tls is not None:
            connection = self.fake.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self.fake.changed:
            self.fake.connections += 1
            self.fake._handlers.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self.fake.changed:
            self.fake._handlers.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client went away in the middle: nothing to say about it."""


class HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `requests` instead."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = self._body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, query, headers, body)
        fault = self.server.fake.take_fault(request)
        if fault is not None and fault.before is not None:
            fault.before()
        answer = self.server.fake.handle(request) if fault is None or fault.arrives or fault.change else None
        if fault is not None and fault.change is not None and answer is not None:
            answer = answer[0], answer[1], fault.change(answer[2])
        elif fault is not None:
            answer = fault.answer
        if answer is None:
            self.close_connection = True
            return
        status, answer_headers, content = answer
        # In one piece: two small segments would wait for each other's acknowledgement (Nagle).
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in answer_headers.items())]
        if "Content-Length" not in answer_headers and status != 204:
            lines.append(f"Content-Length: {len(content)}")
        self.wfile.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        if int(answer_headers.get("Content-Length", len(content))) != len(content):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_PUT = _serve
