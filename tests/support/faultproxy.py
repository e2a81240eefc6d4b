"""A TCP proxy between client and server that breaks things on purpose, and counts what it broke.

What happens to a request is its `Handling`: a value that says how much of it reaches the server, how often, how late, and how
much of the answer reaches the client. A rule chooses it, request by request; `handling.chance` makes a rule that follows seeded dice.

    proxy = FaultProxy(server.port)
    proxy.rule = chance(random.Random(7), 0.3, cut_before, half_answer, marker=b"/executions HTTP/1.1")
    Client(proxy.url, …)
    …
    proxy.counts["cut before delivery"]

Only the loop of its one thread touches connections. Every connection of a client has one to the server, so what keep-alive
does on one side it does on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from tests.support.duplex import HOST, PIECE, Connection, Side, connect, first
from tests.support.handling import GATEWAY_TIMEOUT, PASS, End, Handling, Request, Rule, flipped
from tests.support.http1 import ResponseEnd

FORGET_S = 60.0  # how long a forgotten connection swallows what comes: longer than any client waits that tests scale
KEPT_REQUESTS = 64

T = TypeVar("T")


class FaultProxy:
    """Forwards HTTP/1.1 to HOST:`port` until it is closed.

    Args:
        port: of the server.
        idle_s: a connection that carries no request for so long is ended; None: never.
        silence_s: a connection on which an answer is awaited and nothing comes for so long is ended, with a page of HTML first
            where the answer has not begun; None: never.
        idle_end: how: "close" (FIN), "reset", or "silence": as a NAT that forgets: neither side is told, and what comes
            on it later goes nowhere.
        seed: chooses which old requests are sent again.
    Attributes:
        rule: chooses the handling of each request; may be changed at any time.
        url: for clients.
    """

    def __init__(
        self, port: int, *, idle_s: float | None = None, silence_s: float | None = None, idle_end: End = "close", seed: int = 0
    ) -> None:
        self.rule: Rule = lambda request: PASS
        self.target = port
        self._idle_s = idle_s
        self._silence_s = silence_s
        self._idle_end = idle_end
        self._counts: Counter[str] = Counter()
        self.keeps = b"POST "  # which requests may be sent again later: those whose head has this
        self._kept: list[bytes] = []
        self._numbers = 0
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self._open: dict[asyncio.Task[Any], Connection] = {}
        self._extra: set[asyncio.Task[None]] = set()  # copies and replays under way
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        listener = socket.create_server((HOST, 0), backlog=1024)
        self.port = int(listener.getsockname()[1])
        self.url = f"http://{HOST}:{self.port}"
        self._server = self._call(asyncio.start_server(self._accept, sock=listener, limit=1 << 20))

    @property
    def counts(self) -> Counter[str]:
        """How often each thing happened: handlings by name, "requests", "copies", "copy answered STATUS", "idle ends", …"""
        with self._lock:
            return Counter(self._counts)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until every copy and replay was sent and answered. Raises TimeoutError."""
        self._call(self._settled(), timeout_s)

    def cut_all(self, end: End = "reset") -> None:
        """End every connection of a client now."""
        self._call(self._cut_all(end))

    def close(self) -> None:
        """End every connection and the thread. May be repeated."""
        if self._loop.is_closed():
            return
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float = 60.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def _count(self, name: str, by: int = 1) -> None:
        if name:
            with self._lock:
                self._counts[name] += by

    async def _settled(self) -> None:
        while self._extra:
            await asyncio.wait(self._extra)

    async def _cut_all(self, end: End) -> None:
        for task, connection in list(self._open.items()):
            connection.ends_as = end
            task.cancel()

    async def _close(self) -> None:
        self._server.close()
        await self._cut_all("reset")
        for task in self._extra:
            task.cancel()
        await asyncio.gather(*self._open, *self._extra, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------- connections

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = self._open[task] = Connection(Side(reader, writer))
        self._count("connections")
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError, asyncio.IncompleteReadError, _Ended):
                while await self._exchange(connection):
                    pass
        finally:
            del self._open[task]
            if connection.ends_as == "reset":
                connection.abort()
            connection.close()

    async def _exchange(self, connection: Connection) -> bool:
        """One request and its answer. False: the connection is at its end."""
        request = await self._request(connection)
        if request is None:
            return False
        self._count("requests")
        handling = self.rule(request)
        self._count(handling.name)
        connection.used = True
        if handling.delay_s:
            await asyncio.sleep(handling.delay_s)
        data = request.whole
        if handling.flip_request is not None:
            data = flipped(request.head, request.body, handling.flip_request)
        self._send_besides(handling, data)
        if self.keeps in request.head:
            self._keep(data)
        if handling.delivered < 1:
            return await self._cut_request(connection, handling, data)
        method = request.head.partition(b" ")[0]
        server = await connection.to(handling.port or self.target)
        await server.send(data, handling.bytes_per_s)
        if b"\r\nupgrade: websocket" in request.head.lower():
            return await self._tunnel(connection, server, handling)
        if handling.answered_bytes == 0:
            return await self._end(connection, handling, ResponseEnd(method))
        if handling.whole or handling.answered < 1 or handling.page is not None or handling.flip_answer is not None:
            return await self._answer_held(connection, server, handling, method)
        return await self._answer_passed(connection, server, handling, method)

    async def _request(self, connection: Connection) -> Request | None:
        """The next request; None where a side ends the connection, or its idle limit does."""
        coming: asyncio.Task[tuple[bytes, bytes] | None] = asyncio.ensure_future(connection.client.request())
        watched: set[asyncio.Task[Any]] = {coming}
        ended = connection.server_gone()
        if ended is not None:
            watched.add(ended)
        done = await first(watched, self._idle_s)
        if coming in done:
            found = coming.result()
            if found is None:
                return None
            self._numbers += 1
            return Request(self._numbers - 1, connection.used, *found)
        if not done:
            self._count("idle ends")
            await self._end(connection, Handling(end=self._idle_end))
        return None

    async def _cut_request(self, connection: Connection, handling: Handling, data: bytes) -> bool:
        part = data[: int(len(data) * handling.delivered)]
        if part:
            server = await connection.to(handling.port or self.target)
            await server.send(part, handling.bytes_per_s)
        if handling.page is not None:
            await connection.client.send(handling.page, handling.bytes_per_s)
            return not part
        # Half a request must never be completed by the next one.
        return await self._end(connection, handling)

    async def _answer_held(self, connection: Connection, server: Side, handling: Handling, method: bytes) -> bool:
        end = ResponseEnd(method)
        held = bytearray()
        while not end.done:
            piece = await self._piece(connection, server, end)
            if not piece:
                break
            held += piece
        answer = bytes(held)
        if handling.flip_answer is not None:
            head, _, body = answer.partition(b"\r\n\r\n")
            answer = flipped(head + b"\r\n\r\n", body, handling.flip_answer)
        if handling.page is not None:
            answer = handling.page
        if handling.answered < 1:
            await connection.client.send(answer[: int(len(answer) * handling.answered)], handling.bytes_per_s)
            return await self._end(connection, handling)
        await connection.client.send(answer, handling.bytes_per_s)
        return end.done

    async def _answer_passed(self, connection: Connection, server: Side, handling: Handling, method: bytes) -> bool:
        end = ResponseEnd(method)
        passed = 0
        while not end.done:
            piece = await self._piece(connection, server, end)
            if not piece:
                return False
            if handling.answered_bytes is not None and passed + len(piece) >= handling.answered_bytes:
                await connection.client.send(piece[: handling.answered_bytes - passed], handling.bytes_per_s)
                return await self._end(connection, handling, end)
            await connection.client.send(piece, handling.bytes_per_s)
            passed += len(piece)
        return True

    async def _tunnel(self, connection: Connection, server: Side, handling: Handling) -> bool:
        """What is no HTTP any more: both ways at once, until a side ends it, or so many bytes have come from the server."""
        self._count("upgrades")
        ways = {
            asyncio.ensure_future(_pass(connection.client, server, None)),
            asyncio.ensure_future(_pass(server, connection.client, handling.answered_bytes)),
        }
        await first(ways, None)
        connection.ends_as = handling.end
        return False

    async def _piece(self, connection: Connection, server: Side, end: ResponseEnd) -> bytes:
        """The next bytes of the answer; empty where the server ended it. Raises _Ended where the client went away, or
        nothing came for too long."""
        coming = asyncio.ensure_future(server.reader.read(PIECE))
        gone = asyncio.ensure_future(connection.client.gone())
        watched: set[asyncio.Task[Any]] = {coming, gone}
        done = await first(watched, self._silence_s)
        if coming in done:
            piece = coming.result()
            return piece[: end.feed(piece)]
        if gone in done:
            self._count("clients gone")
            raise _Ended
        self._count("answers given up")
        if self._idle_end == "silence":
            await self._end(connection, Handling(end="silence"))
        elif not end.begun:
            await connection.client.send(GATEWAY_TIMEOUT, None)
        raise _Ended

    async def _end(self, connection: Connection, handling: Handling, answer: ResponseEnd | None = None) -> bool:
        """Ends the client's connection as the handling says, and with it the server's: now, or when its answer is done."""
        if answer is not None and not answer.done and not handling.end_server and handling.end != "silence":
            connection.leave_server_to(lambda server: self._start(server.swallow(answer), server))
        connection.ends_as = handling.end
        if handling.end == "silence":
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.client.swallow(), FORGET_S)
        return False

    # ---------------------------------------------------------------------------------------------- copies, replays

    def _keep(self, data: bytes) -> None:
        if len(self._kept) < KEPT_REQUESTS:
            self._kept.append(data)
        else:
            self._kept[self._dice.randrange(KEPT_REQUESTS)] = data

    def _send_besides(self, handling: Handling, data: bytes) -> None:
        for _ in range(handling.copies):
            self._start(self._copy(data, handling.copies_after_s, "copy"))
        for old in self._dice.sample(self._kept, min(handling.replays, len(self._kept))):
            self._start(self._copy(old, 0.0, "replay"))

    async def _copy(self, data: bytes, after_s: float, what: str) -> None:
        if after_s:
            await asyncio.sleep(after_s)
        server = await connect(self.target)
        try:
            await server.send(data, None)
            self._count(f"{what} sent")
            status = await server.reader.readuntil(b"\r\n")
            end = ResponseEnd(data.partition(b" ")[0])
            end.feed(status)
            await server.swallow(end)
            self._count(f"{what} answered {status.split(b' ', 2)[1].decode()}")
        finally:
            server.finish()

    def _start(self, work: Awaitable[None], side: Side | None = None) -> None:
        async def carry_out() -> None:
            try:
                await work
            except (OSError, asyncio.IncompleteReadError):
                self._count("extra broken")
            finally:
                if side is not None:
                    side.finish()

        task = self._loop.create_task(carry_out())
        self._extra.add(task)
        task.add_done_callback(self._extra.discard)


async def _pass(source: Side, target: Side, limit: int | None) -> None:
    passed = 0
    while (limit is None or passed < limit) and (piece := await source.reader.read(PIECE)):
        piece = piece if limit is None else piece[: limit - passed]
        passed += len(piece)
        await target.send(piece, None)


class _Ended(Exception):
    """The connection is at its end."""
