"""Our connections: uvicorn's, and a way from a request to the one that it came over."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

CONNECTION = "remote_env.connection"  # scope key: the HttpProtocol


class HttpProtocol(HttpToolsProtocol):
    """Tells the request which connection it came over: a large body is taken from there."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.scope is not None:  # else there was no request
            self.scope.pop(CONNECTION, None)  # type: ignore[misc]  # else they hold each other

    def answer(self, scope: Scope, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bool:
        """Answer the request with this scope at once, head and body in one write: two wake the client twice.

        The headers are ours, without line breaks in them, content-length among them. False where it has to be answered as any
        other: another request came after it, its client reads slowly or has gone, or the connection is to end.
        """
        cycle = self.cycle
        if cycle is None or cycle.scope is not scope or cycle.response_started:
            return False
        if cycle.disconnected or not cycle.keep_alive or self.flow.write_paused:
            return False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join((STATUS_LINE[status], *lines, b"\r\n", body)))
        cycle.message_event.set()
        cycle.on_response()
        return True
