"""Bodies of any size on their way in, in large pieces; a server that stops does not wait for them.

A large body is taken straight from the socket into a few buffers that are used again and again. uvicorn would parse it, copy it four
times, and wake the request for every 64 KiB. It has its connection back behind the body's last byte."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import httptools
from fastapi import Request
from starlette.requests import ClientDisconnect

from remote_env.hashed import Piece
from server.connections import CONNECTION, HttpProtocol
from server.lifetime import RETRY_AFTER_STOP_S, Lifetime
from server.problems import ProblemError

PIECE = 1 << 20  # bytes of a buffer, and of a batch
_BUFFERS = 4  # of one body: one is filled while two are worked on
_LARGE = 1 << 20  # bytes of a body for which another way of reading it pays
_LONGEST_LENGTH = 18  # digits


class Body(Protocol):
    """A request's body, once."""

    size: int | None  # bytes, where it was said beforehand

    def batches(self) -> AsyncGenerator[Sequence[Piece], None]:
        """Its pieces, some together, PIECE bytes or so; each batch stays as it is until the one after the next is asked for. Raises
        ClientDisconnect, and ProblemError `stopping`."""


class Bodies:
    """The bodies that are coming in just now."""

    def __init__(self, lifetime: Lifetime) -> None:
        self._lifetime = lifetime
        self._coming: set[_Received | _Streamed] = set()
        lifetime.on_stop(self._stop)

    def _stop(self) -> None:
        for body in list(self._coming):
            body.stop()

    @contextmanager
    def of(self, request: Request) -> Iterator[Body]:
        """What is left of it at the end is passed over."""
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdigit() and len(length) <= _LONGEST_LENGTH else None
        connection = _connection_of(request)
        body: _Received | _Streamed
        if connection is not None and size is not None and size >= _LARGE and _is_to_come(connection, size):
            body = _Received(connection, size)
        else:
            body = _Streamed(request, connection, size)
        self._coming.add(body)
        if self._lifetime.stopping:
            body.stop()
        try:
            yield body
        finally:
            self._coming.discard(body)
            body.close()


def _connection_of(request: Request) -> HttpProtocol | None:
    """The connection, while this request is the last that came over it: else what it reads is another's."""
    connection = request.scope.get(CONNECTION)
    if not isinstance(connection, HttpProtocol) or connection.cycle.scope["headers"] is not request.scope["headers"]:
        return None
    return connection


def _is_to_come(connection: HttpProtocol, size: int) -> bool:
    """Whether some of the body is yet to come, and none of it has gone elsewhere."""
    cycle = connection.cycle
    return cycle.more_body and len(cycle.body) < size and not connection.transport.is_closing()


def _stopping() -> ProblemError:
    return ProblemError("stopping", "the server is stopping; the file is as it was", retry_after_s=RETRY_AFTER_STOP_S)


class _Streamed:
    """A body as uvicorn gives it."""

    def __init__(self, request: Request, connection: HttpProtocol | None, size: int | None) -> None:
        self.size = size
        self._request = request
        self._cycle = connection.cycle if connection is not None else None
        self._stopped = False

    async def batches(self) -> AsyncGenerator[Sequence[Piece], None]:
        batch: list[bytes] = []
        held, more = 0, True
        while more:
            message = await self._request.receive()
            if self._stopped:
                raise _stopping()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            batch.append(message.get("body", b""))
            held += len(batch[-1])
            if held >= PIECE:
                yield batch
                batch, held = [], 0
        yield batch

    def stop(self) -> None:
        self._stopped = True
        if self._cycle is not None:
            self._cycle.message_event.set()  # whoever waits for more of it looks up

    def close(self) -> None:
        """uvicorn passes over what is left."""


class _Received(asyncio.BufferedProtocol):
    """A body from the socket, in place of uvicorn's protocol until its last byte."""

    def __init__(self, connection: HttpProtocol, size: int) -> None:
        self.size: int | None = size
        self._connection = connection
        self._cycle = cycle = connection.cycle
        self._transport = connection.transport
        self._failure: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._whole: deque[memoryview] = deque()
        self._lent: deque[memoryview] = deque()
        self._made = 0
        self._free: list[memoryview] = []
        self._buffer = self._new_buffer()
        self._at = 0  # bytes in it
        self._unwanted = False
        self._transport.pause_reading()
        connection.flow.read_paused = False  # from here on it is ours to pause and resume
        self._begun = bytes(cycle.body)  # came together with the head
        cycle.body = bytearray()
        self._left = size - len(self._begun)  # bytes that have not come yet
        if cycle.waiting_for_100_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def _new_buffer(self) -> memoryview:
        self._made += 1
        return memoryview(bytearray(PIECE))

    # ------------------------------------------------------------------------------------------- whoever wants it

    async def batches(self) -> AsyncGenerator[Sequence[Piece], None]:
        if self._begun:
            yield [self._begun]
        while self._whole or self._left:
            while not self._whole:
                if self._failure is not None:
                    raise self._failure
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
            if self._left and isinstance(self._failure, ProblemError):
                raise self._failure
            piece = self._whole.popleft()
            self._lent.append(piece)
            yield [piece]
            while len(self._lent) > 1:
                self._give_back(self._lent.popleft())

    def _give_back(self, piece: memoryview) -> None:
        whole = piece.obj
        assert isinstance(whole, bytearray)
        self._free.append(memoryview(whole))
        if not len(self._buffer) and self._left:
            self._buffer = self._free.pop()
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def stop(self) -> None:
        self._failure = self._failure or _stopping()
        self._wake()

    def close(self) -> None:
        """Nobody wants more of it: what is yet to come is passed over, as the answer may be read before all is sent."""
        self._unwanted = True
        self._whole.clear()
        if self._left and not self._transport.is_closing():
            self._buffer, self._at = self._free.pop() if self._free else self._new_buffer(), 0
            self._transport.resume_reading()

    # ------------------------------------------------------------------------------------------------ the socket

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._at : self._at + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._left -= nbytes
        self._at += nbytes
        if self._unwanted:
            self._at = 0
        elif self._at == len(self._buffer) or not self._left:
            self._whole.append(self._buffer[: self._at])
            self._at = 0
            self._next_buffer()
            self._wake()
        if not self._left:
            self._return()

    def _next_buffer(self) -> None:
        if self._free:
            self._buffer = self._free.pop()
        elif self._made < _BUFFERS and self._left:
            self._buffer = self._new_buffer()
        else:
            self._buffer = memoryview(b"")
            self._transport.pause_reading()

    def _return(self) -> None:
        """uvicorn has its connection back, as it is behind a request."""
        self._transport.pause_reading()
        self._connection.parser = httptools.HttpRequestParser(self._connection)
        self._connection.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._cycle.more_body = False
        self._transport.set_protocol(self._connection)
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        self._failure = self._failure or ClientDisconnect()
        self._wake()
