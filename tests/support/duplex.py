"""Both ends of a connection that passes through a proxy, on asyncio's streams."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

from tests.support.handling import End
from tests.support.http1 import ResponseEnd, content_length

HOST = "127.0.0.1"
PIECE = 64 << 10  # bytes
SLOW_STEP_S = 0.02
_LONGEST_HEAD = 1 << 20  # bytes


class Side:
    """One end of a connection: the client's or the server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._early = b""  # what came while the other side was being listened to

    async def request(self) -> tuple[bytes, bytes] | None:
        """Head and body of the next request; None at the end of the connection."""
        try:
            head = self._early + await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        self._early = b""
        return head, await self.reader.readexactly(content_length(head))

    async def send(self, data: bytes, bytes_per_s: float | None) -> None:
        if bytes_per_s is None:
            self.writer.write(data)
            await self.writer.drain()
            return
        step = max(1, int(bytes_per_s * SLOW_STEP_S))
        for at in range(0, len(data), step):
            self.writer.write(data[at : at + step])
            await self.writer.drain()
            await asyncio.sleep(SLOW_STEP_S)

    async def gone(self) -> None:
        """Returns when this side ends the connection."""
        while piece := await self.reader.read(PIECE):
            self._early += piece

    async def swallow(self, end: ResponseEnd | None = None) -> None:
        """Throw away what comes, to the end of the answer or of the connection."""
        while not (end is not None and end.done) and (piece := await self.reader.read(PIECE)):
            if end is not None:
                end.feed(piece)

    def finish(self) -> None:
        """FIN, after everything that was sent."""
        self.writer.close()

    def abort(self) -> None:
        """RST (socket(7), SO_LINGER)."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: Side) -> None:
        self.client = client
        self.used = False  # it has carried a request
        self.ends_as: End = "close"
        self._server: Side | None = None
        self._port = 0

    async def to(self, port: int) -> Side:
        """The server at this port: the connection that is there, or a new one."""
        if self._server is not None and self._port != port:
            self._server.finish()
            self._server = None
        if self._server is None:
            self._server, self._port = await connect(port), port
        return self._server

    def server_gone(self) -> asyncio.Task[None] | None:
        """Ends when the server ends the connection; None without one."""
        return None if self._server is None else asyncio.ensure_future(self._server.gone())

    def leave_server_to(self, keeper: Callable[[Side], None]) -> None:
        if self._server is not None:
            keeper(self._server)
            self._server = None

    def abort(self) -> None:
        """RST to both sides."""
        self.client.abort()
        if self._server is not None:
            self._server.abort()

    def close(self) -> None:
        """FIN to both sides, where they are not at their end already."""
        self.client.finish()
        if self._server is not None:
            self._server.finish()


async def connect(port: int) -> Side:
    return Side(*await asyncio.open_connection(HOST, port, limit=_LONGEST_HEAD))


async def first(tasks: set[asyncio.Task[Any]], timeout_s: float | None) -> set[asyncio.Task[Any]]:
    """Those that are done when the first of them is, or after the time; the others are ended."""
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return {task for task in tasks if task.done()}
    finally:
        for task in tasks:
            task.cancel()  # does nothing to those that are done
        await asyncio.gather(*tasks, return_exceptions=True)
