"""The connections below `requests`: addresses, socket options, idle limits, counting, closing, and one rule about failures.

The rule: whatever goes wrong before a connection stands (name, refusal, timeout, TLS handshake, a wrong certificate)
leaves here as urllib3's ConnectTimeoutError family, and nothing else does. So the transport can tell "no byte was sent"
from "a byte may have been sent" by type alone.
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any

import urllib3
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from remote_env.dial import Address, DialError, dial
from remote_env.roundtrip import Answer, round_trip
from remote_env.stats import Stats
from remote_env.tls import Tls

KEEPALIVE_IDLE_S = 20
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_PROBES = 3
_SHORT_BODY = 64 * 1024  # bytes; so little is sent in one go with its head, not in a second one that wakes the server again
USER_TIMEOUT_MS = 20_000  # unacknowledged data: keep-alive alone does not end a connection that has some in flight


def socket_options() -> list[tuple[int, int, int]]:
    """Both keep-alive and the user timeout are needed: each alone leaves a black-holed case hanging."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for names, value in (
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), KEEPALIVE_IDLE_S),  # the second is macOS's name for it
        (("TCP_KEEPINTVL",), KEEPALIVE_INTERVAL_S),
        (("TCP_KEEPCNT",), KEEPALIVE_PROBES),
        (("TCP_USER_TIMEOUT",), USER_TIMEOUT_MS),
    ):
        known = next((name for name in names if hasattr(socket, name)), None)
        if known is not None:
            options.append((socket.IPPROTO_TCP, getattr(socket, known), value))
    return options


class Connections:
    """What a pool and its connections share: counters, the idle limit, and which sockets there are."""

    def __init__(self, stats: Stats, idle_s: float) -> None:
        self.stats = stats
        self.idle_s = idle_s
        self.generation = 0  # raised by a rebuild: connections of an older one are not used again
        self._open: weakref.WeakSet[_Counted] = weakref.WeakSet()
        self._dialling: set[socket.socket] = set()
        self._closed = False
        self._lock = threading.RLock()  # reentrant: finalizers close connections too
        self._used = threading.local()

    def dial(self, host: str, port: int, timeout_s: float, options: list[tuple[int, int, int]]) -> tuple[socket.socket, Address]:
        """A connected socket, and where it leads. Raises DialError (an OSError), at once when closed meanwhile."""
        return dial(host, port, timeout_s, options, begun=self._begun, ended=self._ended)

    def _begun(self, sock: socket.socket) -> None:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the client is closed")
            self._dialling.add(sock)

    def _ended(self, sock: socket.socket) -> None:
        with self._lock:
            self._dialling.discard(sock)

    def opened(self, connection: _Counted) -> None:
        """Raises ConnectionAbortedError when closed meanwhile: nobody would ever shut this one down."""
        connection.generation = self.generation
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("the client is closed")
            self._open.add(connection)
        self.stats.add(connections_opened=1)

    def uses(self, connection: _Counted) -> None:
        """This thread's request goes over that connection."""
        self._used.connection = connection

    def last_address(self) -> str:
        """Where this thread's latest request went, for a log line."""
        connection: _Counted | None = getattr(self._used, "connection", None)
        return str(connection.address) if connection is not None and connection.address is not None else "no address"

    def last_socket(self) -> socket.socket | None:
        """What this thread's latest request goes over, once it is connected."""
        connection: _Counted | None = getattr(self._used, "connection", None)
        return None if connection is None else connection.sock

    def is_stale(self, connection: _Counted) -> bool:
        return connection.generation != self.generation or time.monotonic() - connection.last_used > self.idle_s

    def sockets(self) -> list[socket.socket]:
        """Of the connections that are open, in use or idle."""
        with self._lock:
            return [sock for connection in self._open if (sock := connection.sock) is not None]

    def shut_down(self) -> None:
        """Wakes every thread that waits in a read or for a connection; closing the descriptor alone would not. For good."""
        with self._lock:
            self._closed = True
            sockets = [*self.sockets(), *self._dialling]
        for sock in sockets:
            try:
                # Below TLS on purpose: SSLSocket.shutdown() is not safe beside a reader in another thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                continue  # already closed by its own thread


class _Lines:
    """A file that is read line by line, and remembers the last one."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        self.last = self.file.readline(limit)
        return self.last

    def close(self) -> None:
        self.file.close()


class _WholeHead(HTTPResponse):
    """`http.client` takes the end of the connection for the end of the head: half a header, or none, would pass for true."""

    def begin(self) -> None:
        lines = _Lines(self.fp)
        self.fp: Any = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = lines.file
        if lines.last not in (b"\r\n", b"\n"):
            raise RemoteDisconnected("the connection ended within the head of the answer")


class _Counted(HTTPConnection):
    response_class = _WholeHead
    connections: Connections
    address: Address | None = None
    generation = -1
    last_used = 0.0
    _awaits_head = False
    _head = b""

    def request(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> None:
        self._awaits_head, self._head = isinstance(body, bytes) and 0 < len(body) <= _SHORT_BODY, b""
        super().request(method, url, body, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self._awaits_head:  # what comes first; the body follows
            self._awaits_head, self._head = False, data
            return
        if self._head:
            data, self._head = self._head + data, b""
        super().send(data)

    def _new_conn(self) -> socket.socket:
        timeout_s = self.timeout if isinstance(self.timeout, (int, float)) else None
        sock, self.address = self.connections.dial(self._dns_host, self.port, timeout_s or 0.0, list(self.socket_options or ()))  # type: ignore[arg-type]
        return sock

    def connect(self) -> None:
        try:
            super().connect()
            self.connections.opened(self)
        except ConnectTimeoutError:
            raise
        except (OSError, HTTPError, ValueError) as error:  # the last: a certificate of another name
            self.close()
            at = "" if self.address is None or isinstance(error, DialError) else f" ({self.address})"
            raise NewConnectionError(self, f"{_told(error)}{at}") from error


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DialError) else f"no connection: {type(error).__name__}: {error}"


class _CountedTls(_Counted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Counted
    connections: Connections

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.connections = self.connections
        return connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection: Any = super()._get_conn(timeout)
        self.connections.uses(connection)
        if connection.sock is not None:
            if self.connections.is_stale(connection):
                connection.close()  # it connects again when it is used
            else:
                self.connections.stats.add(connections_reused=1)
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.last_used = time.monotonic()
            if self.pool is not None and self.pool.full():
                conn.close()  # more are opened than kept, by intent: nothing that urllib3 should warn about
                return
        super()._put_conn(conn)

    def round_trip(self, request: bytes, *, is_head: bool, connect_s: float, silence_s: float) -> Answer:
        """Send a request over a connection that stands or is made now, and read its whole answer. Without what urllib3 does for
        each request: see `roundtrip`. Raises ConnectTimeoutError where no connection is made; OSError, HTTPException later."""
        connection: _Counted = self._get_conn()
        reusable = False
        try:
            if connection.sock is None:
                connection.timeout = connect_s
                connection.connect()
            sock: socket.socket = connection.sock
            if sock.gettimeout() != silence_s:
                sock.settimeout(silence_s)
            answer = round_trip(sock, request, is_head=is_head)
            reusable = answer.reusable
            return answer
        finally:
            if not reusable:
                connection.close()  # it connects again when it is used
            self._put_conn(connection)


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _CountedTls


class Adapter(HTTPAdapter):
    """One pool for one server, handed to `requests` without its per-call search for proxies, certificates and pools."""

    def __init__(
        self, *, scheme: str, host: str, port: int | None, tls: Tls, size: int, connect_s: float, connections: Connections
    ) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0, pool_block=False)
        options: dict[str, Any] = {
            "maxsize": size,
            "block": False,
            "timeout": urllib3.Timeout(connect=connect_s, read=connect_s),
            "socket_options": socket_options(),
        }
        if scheme == "https":
            self._pool: _Pool = _TlsPool(host, port, ssl_context=tls.context(), assert_fingerprint=tls.fingerprint, **options)
        else:
            self._pool = _Pool(host, port, **options)
        self._pool.connections = connections
        self.round_trip = self._pool.round_trip

    def get_connection_with_tls_context(self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None) -> _Pool:
        return self._pool

    def get_connection(self, url: Any, proxies: Any = None) -> _Pool:  # requests before 2.32
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the pool was made with its TLS context."""

    def close(self) -> None:
        self._pool.close()
        super().close()
