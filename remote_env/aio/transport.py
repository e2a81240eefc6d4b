"""What `transport` is for threads, for asyncio: one HTTP request, sent once, over a pooled connection of aiohttp's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import weakref
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from remote_env.aio.lanes import OffLoop
from remote_env.aio.pieces import Pieces
from remote_env.carrier import Body, MaybeSent, NotSent, Reply, StreamBroken, flaw_of, head_of, shown_path
from remote_env.config import Endpoint
from remote_env.errors import MisuseError
from remote_env.forks import tell_in_child
from remote_env.lanes import Aside
from remote_env.pool import socket_options
from remote_env.stats import Stats
from remote_env.timings import Timings
from remote_env.trace import trace, tracing

try:
    import aiohttp
    from yarl import URL
except ImportError as error:
    raise ImportError("The asyncio client needs aiohttp: pip install 'remote-env[async]'.") from error

Answer = TypeVar("Answer")

_NOT_CONNECTED = (
    aiohttp.ClientConnectorError,  # a name that is not known, a refusal, a TLS handshake or a certificate that is wrong
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ConnectionTimeoutError,
)
"""What aiohttp raises before a connection stands, and at no other time."""
_PARENTS: list[object] = []  # connections of the process that this one was forked from: kept, so that nothing closes them
_BROKEN = (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError)


class AsyncReply:
    """See `carrier.StreamedReply`."""

    def __init__(self, response: aiohttp.ClientResponse, connections: _Connections, stats: Stats) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._connections: _Connections | None = connections
        self._stats = stats

    async def read(self) -> bytes:
        try:
            data = await self._response.content.readany()
        except _BROKEN as error:
            raise StreamBroken(f"{type(error).__name__}: {error}", silent=isinstance(error, asyncio.TimeoutError)) from error
        self._stats.add(bytes_received=len(data))
        return data

    async def read_all(self, limit: int) -> bytes:
        data = bytearray()
        while len(data) < limit and (piece := await self.read()):
            data += piece
        return bytes(data[:limit])

    def release(self) -> None:
        """An answer that was read to its end gives its connection back; any other closes it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        self._leave()

    def interrupt(self) -> None:
        self._response.content.set_exception(aiohttp.ClientConnectionError("it was interrupted"))

    def close(self) -> None:
        self._response.close()
        self._leave()

    def _leave(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.leave()

    def __del__(self) -> None:
        connections = self.__dict__.get("_connections")
        if connections is not None:
            self._response.close()
            connections.leave_later()


class _Connections:
    """The connections of one generation: a link that was seen to be dead gets new ones, and the old end with their last request."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self._users = 0
        self._retired = False
        self._ending: asyncio.Task[None] | None = None

    def enter(self) -> None:
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        self._end_if_unused()

    def leave_later(self) -> None:
        """For a finalizer, which may run anywhere."""
        loop = self.session._loop
        if not loop.is_closed():
            loop.call_soon_threadsafe(self.leave)

    def retire(self) -> None:
        self._retired = True
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._retired and not self._users and self._ending is None and not self.session.closed:
            self._ending = asyncio.get_running_loop().create_task(self.session.close())


class AsyncTransport:
    """The connections of one caller to one server, for the tasks of one event loop: the first that it is used in.

    There is no limit to the connections; what is idle for `Timings.idle_connection_s` is closed.
    """

    aside: Aside = OffLoop()

    def __init__(self, endpoint: Endpoint, timings: Timings | None = None) -> None:
        self.endpoint = endpoint
        self.timings = timings or Timings()
        self.stats = Stats()
        self.token = endpoint.token_source()
        self.reached = False
        self._closed = False
        self._tls: ssl.SSLContext | aiohttp.Fingerprint | bool = _tls(endpoint)
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: _Connections | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # of all generations
        self._rebuilt_at = float("-inf")
        tell_in_child(self)

    def after_fork_in_child(self) -> None:
        """The parent's sockets stay the parent's, and so does its event loop, in whose selector they are: closing them here would
        take them out of it there. So nothing is closed, and nobody need complain of that."""
        connections, self._connections = self._connections, None
        self._pid, self._loop, self._waiting, self._sockets = os.getpid(), None, set(), weakref.WeakSet()
        if connections is not None and not connections.session.closed:
            connector: Any = connections.session.connector
            connections.session.detach()
            _PARENTS.append((connector, connections))
            getattr(connector, "_conns", {}).clear()  # else its finalizer closes them

    @property
    def closed(self) -> bool:
        return self._closed

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, read_s: float | None = None
    ) -> Reply:
        connections = self._connected()
        began = time.monotonic() if tracing("transport") else 0.0
        connections.enter()
        try:
            sending = self._send(connections, method, path, headers, body, read_s or self.timings.request_s)
            async with sending as response:
                content = await response.read()
        except _BROKEN as error:
            raise self._failure(error, connections, method, path) from error
        finally:
            self.stats.add(calls=1)
            connections.leave()
        self.stats.add(bytes_sent=len(body or b""), bytes_received=len(content))
        if tracing("transport"):
            trace(
                "transport", "%s %s: %d, %d bytes sent, %d received, %.1f ms",
                method, shown_path(path), response.status, len(body or b""), len(content), (time.monotonic() - began) * 1000,
            )  # fmt: skip
        reply = Reply(response.status, response.headers, content)
        flaw = flaw_of(reply, method)
        if flaw is not None:
            raise MaybeSent(f"{flaw}; the request was sent")
        return reply

    async def open(self, method: str, path: str, headers: dict[str, str], *, body: Body | None = None, silence_s: float) -> AsyncReply:
        connections = self._connected()
        self.stats.add(calls=1)
        connections.enter()
        try:
            if body is None or isinstance(body, bytes):
                response = await self._send(connections, method, path, headers, body, silence_s)
            else:
                pieces = Pieces(body)
                response = await pieces.watch(_awaited(self._send(connections, method, path, headers, pieces, silence_s)), silence_s)
        except BaseException as error:
            connections.leave()
            if not isinstance(error, _BROKEN):
                raise
            if isinstance(error, asyncio.TimeoutError) and not isinstance(error, _NOT_CONNECTED):
                raise StreamBroken(f"no answer for {silence_s:.0f} s", silent=True) from error
            raise self._failure(error, connections, method, path) from error
        return AsyncReply(response, connections, self.stats)

    async def pause(self, seconds: float) -> bool:
        if seconds > 0 and not self._closed:
            loop = self._own_loop()
            waiting: asyncio.Future[None] = loop.create_future()
            self._waiting.add(waiting)
            timer = loop.call_later(seconds, _wake, waiting)
            try:
                await waiting
            finally:
                timer.cancel()
                self._waiting.discard(waiting)
        return not self._closed

    def rebuild(self) -> None:
        """Called by the heartbeat, in its own thread."""
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            return
        try:
            loop.call_soon_threadsafe(self._rebuild, self._connections)
        except RuntimeError:  # the loop is closed, and all connections with it
            return

    def drop_connections(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            connections.retire()
            self.stats.add(pool_rebuilds=1)

    async def close(self) -> None:
        """The flag first, so that nobody connects again; then the connections: requests under way break. May be repeated."""
        self._closed = True
        for waiting in self._waiting:
            _wake(waiting)
        for sock in self._sockets:
            # aiohttp waits until what is on its way is sent, and a peer that has died or does not read can make that long.
            with contextlib.suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)
        connections, self._connections = self._connections, None
        if connections is not None:
            self._own_loop()
            await connections.session.close()

    # ------------------------------------------------------------------------------------------------------ sending

    def _send(
        self,
        connections: _Connections,
        method: str,
        path: str,
        headers: dict[str, str] | None,
        body: bytes | Pieces | None,
        silence_s: float,
    ) -> aiohttp.client._RequestContextManager:
        return connections.session.request(
            method,
            URL(self.endpoint.url + path, encoded=True),
            data=body.send() if isinstance(body, Pieces) else body,
            headers=head_of(method, body.pieces if isinstance(body, Pieces) else body, headers, self.token.value),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.timings.connect_s, sock_read=silence_s),
            allow_redirects=False,
            ssl=self._tls,
        )

    def _failure(self, error: BaseException, connections: _Connections, method: str, path: str) -> NotSent | MaybeSent:
        reason = f"{type(error).__name__}: {error}"
        sent = not isinstance(error, _NOT_CONNECTED)
        failure = MaybeSent(f"{reason}; a byte may have been sent") if sent else NotSent(f"{reason}; no byte was sent")
        trace("transport", "%s %s: %s", method, shown_path(path), failure)
        if sent:
            self._rebuild(connections)
        return failure

    def _rebuild(self, connections: _Connections | None) -> None:
        """A dead link kills all its connections at once: none of the idle ones is worth trying."""
        now = time.monotonic()
        if connections is self._connections and now - self._rebuilt_at >= self.timings.rebuild_s:
            self._rebuilt_at = now
            self.drop_connections()

    def _connected(self) -> _Connections:
        """Raises NotSent when closed, MisuseError in another event loop."""
        if self._closed:
            raise NotSent("the client is closed; no byte was sent")
        loop = self._own_loop()
        if self._connections is None:
            self._connections = _Connections(self._session(loop))
        return self._connections

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise MisuseError("An AsyncClient belongs to the event loop that it was first used in: make one for each. Nothing was sent.")
        return loop

    def _session(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=self.timings.idle_connection_s,
            use_dns_cache=False,
            happy_eyeballs_delay=None,
            socket_factory=self._socket,
            loop=loop,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # no .netrc in place of the token, no HTTP_PROXY for loopback
            auto_decompress=False,
            skip_auto_headers=("Content-Type", "Accept"),
            trace_configs=[self._counting()],
        )
        session._retry_connection = False  # it would send a GET again by itself
        return session

    def _socket(self, address: Any) -> socket.socket:
        family, kind, protocol = address[:3]
        sock = socket.socket(family, kind, protocol)
        for option in socket_options():
            sock.setsockopt(*option)
        self._sockets.add(sock)
        return sock

    def _counting(self) -> aiohttp.TraceConfig:
        async def opened(session: Any, context: Any, params: Any) -> None:
            self.stats.add(connections_opened=1)

        async def reused(session: Any, context: Any, params: Any) -> None:
            self.stats.add(connections_reused=1)

        counting = aiohttp.TraceConfig()
        counting.on_connection_create_end.append(opened)
        counting.on_connection_reuseconn.append(reused)
        return counting


def _tls(endpoint: Endpoint) -> ssl.SSLContext | aiohttp.Fingerprint | bool:
    if not endpoint.url.startswith("https:"):
        return True
    if endpoint.tls.fingerprint is not None:
        return aiohttp.Fingerprint(bytes.fromhex(endpoint.tls.fingerprint))
    context = endpoint.tls.context()
    context.check_hostname = True
    return context


async def _awaited(sending: Awaitable[Answer]) -> Answer:
    return await sending


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
