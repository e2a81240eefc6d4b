"""One HTTP request, sent once, over a pooled connection; a failure says whether a byte may have left.

Nothing here is ever sent again: who knows what the request means decides that (`exchange`, `delivery`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from http.client import HTTPException
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ClosedPoolError, ConnectTimeoutError, HTTPError, MaxRetryError

from remote_env.carrier import Body, MaybeSent, NotSent, Reply, StreamBroken, flaw_of, head_of, shown_path
from remote_env.config import Endpoint
from remote_env.dial import DialError
from remote_env.forks import tell_in_child
from remote_env.lanes import Aside, Blocking
from remote_env.pool import Adapter, Connections
from remote_env.roundtrip import request_bytes
from remote_env.sending import Sending
from remote_env.stats import Stats
from remote_env.streamed import BlockingReply
from remote_env.timings import Timings
from remote_env.trace import trace, tracing

ENVIRONMENT_POOL_SIZE = 10
CLIENT_POOL_SIZE = 64

_CLOSED = "the client is closed; no byte was sent"

log = logging.getLogger("remote_env")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: a redirect is an answer that is not ours, and its Location is not even looked at."""


class Transport:
    """The connections of one caller to one server. Threads may share it; a forked child gets connections of its own.

    `pool_size` is how many connections are kept; more are opened rather than waited for, and closed after use.
    """

    aside: Aside = Blocking()

    def __init__(self, endpoint: Endpoint, timings: Timings | None = None, *, pool_size: int = CLIENT_POOL_SIZE) -> None:
        self.endpoint = endpoint
        self.timings = timings or Timings()
        self.stats = Stats()
        self.token = endpoint.token_source()
        self.reached = False  # whether this server has ever given an answer of ours
        self._pool_size = pool_size
        parts = urlsplit(endpoint.url)
        self._scheme, self._host, self._port = parts.scheme, parts.hostname or "", parts.port
        self._base, self._host_header = parts.path, _host_header(parts.netloc)
        self._reset()
        tell_in_child(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._rebuild_lock = threading.Lock()
        self._rebuilt_at = float("-inf")
        self.stats.reset_lock_after_fork()
        self._connections = Connections(self.stats, self.timings.idle_connection_s)
        session = _Session()
        session.trust_env = False  # no .netrc in place of the token, no HTTP_PROXY for loopback
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._adapter = Adapter(
            scheme=self._scheme,
            host=self._host,
            port=self._port,
            tls=self.endpoint.tls,
            size=self._pool_size,
            connect_s=self.timings.connect_s,
            connections=self._connections,
        )
        session.mount(f"{self._scheme}://", self._adapter)
        self._session = session

    def after_fork_in_child(self) -> None:
        """The parent's sockets stay the parent's: two processes on one connection would read each other's answers."""
        closed = self._closed.is_set()
        self._reset()
        if closed:
            self._closed.set()

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, read_s: float | None = None
    ) -> Reply:
        """Sends one request and reads the whole answer, whatever its status. Redirects are not followed.

        `path` begins with a slash; `read_s` is the longest silence while waiting for the answer, in seconds.
        Raises NotSent or MaybeSent.
        """
        if self._pid != os.getpid():
            self.after_fork_in_child()
        if self._closed.is_set():
            raise NotSent(_CLOSED)
        request = request_bytes(method, self._base + path, self._host_header, head_of(method, body, headers, self.token.value), body)
        connections = self._connections
        began = time.monotonic() if tracing("transport") else 0.0
        try:
            answer = self._adapter.round_trip(
                request, is_head=method == "HEAD", connect_s=self.timings.connect_s, silence_s=read_s or self.timings.request_s
            )
        except ConnectTimeoutError as error:  # see `pool`
            self.stats.add(calls=1)
            reason = _innermost(error)
            trace("transport", "%s %s: %s", method, shown_path(path), reason)
            raise NotSent(reason) from error
        except ClosedPoolError as error:  # by another thread, since it was looked at
            raise NotSent(_CLOSED) from error
        except (HTTPError, HTTPException, OSError) as error:
            self.stats.add(calls=1)
            reason = f"{_innermost(error)} ({connections.last_address()}); a byte may have been sent"
            trace("transport", "%s %s: %s", method, shown_path(path), reason)
            self._rebuild(connections)
            raise MaybeSent(reason) from error
        self.stats.add(calls=1, bytes_sent=len(body or b""), bytes_received=len(answer.body))
        if tracing("transport"):
            trace(
                "transport", "%s %s: %d, %d bytes sent, %d received, %.1f ms (%s)",
                method, shown_path(path), answer.status, len(body or b""), len(answer.body), (time.monotonic() - began) * 1000,
                connections.last_address(),
            )  # fmt: skip
        reply = Reply(answer.status, answer.headers, answer.body)
        flaw = flaw_of(reply, method)
        if flaw is not None:
            raise MaybeSent(f"{flaw} ({connections.last_address()}); the request was sent")
        return reply

    async def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, *, read_s: float | None = None
    ) -> Reply:
        return self.call(method, path, body, headers, read_s=read_s)

    async def open(self, method: str, path: str, headers: dict[str, str], *, body: Body | None = None, silence_s: float) -> BlockingReply:
        if self._pid != os.getpid():
            self.after_fork_in_child()
        if self._closed.is_set():
            raise NotSent(_CLOSED)
        sending = None if body is None or isinstance(body, bytes) else Sending(body, self._connections.last_socket, silence_s)
        request = self._request(method, path, sending or body, headers)
        self.stats.add(calls=1)
        try:
            response = self._session.send(
                request, timeout=(self.timings.connect_s, silence_s), allow_redirects=False, proxies={}, verify=True, cert=None, stream=True
            )
        except (requests.RequestException, HTTPError, HTTPException, OSError) as error:
            reason = _not_sent_reason(error)
            if reason is not None:
                raise NotSent(reason) from error
            if isinstance(error, requests.Timeout):
                raise StreamBroken(f"no answer for {silence_s:.0f} s", silent=True) from error
            raise MaybeSent(f"{_innermost(error)} ({self._connections.last_address()})") from error
        return BlockingReply(response, self.stats, asked=sending is None or sending.whole)

    def _request(self, method: str, path: str, body: Body | None, headers: dict[str, str] | None) -> requests.PreparedRequest:
        """Prepared by hand: `requests` would parse, encode and merge the same things anew for each call."""
        request: Any = requests.PreparedRequest()
        request.method = method
        request.url = self.endpoint.url + path
        request.headers = CaseInsensitiveDict(head_of(method, body, headers, self.token.value))
        request.body = body
        request.hooks = {"response": []}
        return request  # type: ignore[no-any-return]

    def rebuild(self) -> None:
        """What is idle in the pool is not used again: the link was seen to be dead. Not more often than `rebuild_s`."""
        self._rebuild(self._connections)

    def sockets(self) -> list[socket.socket]:
        """Of the connections that are open now: for somebody who watches them."""
        return self._connections.sockets()

    def _rebuild(self, connections: Connections) -> None:
        """A dead link kills all its connections at once: none of the idle ones is worth trying."""
        with self._rebuild_lock:
            now = time.monotonic()
            if now - self._rebuilt_at < self.timings.rebuild_s:
                return
            self._rebuilt_at = now
        self._drop(connections)

    def drop_connections(self) -> None:
        """No connection used so far is used again: after an answer that belongs to another request, whatever else
        comes on that connection is off by one too."""
        self._drop(self._connections)

    def _drop(self, connections: Connections) -> None:
        connections.generation += 1
        self.stats.add(pool_rebuilds=1)

    async def pause(self, seconds: float) -> bool:
        return not (self._closed.wait(seconds) if seconds > 0 else self._closed.is_set())

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        """The flag first, so that nobody connects again; then the sockets, which wakes whoever reads from one."""
        self._closed.set()
        if self._pid == os.getpid():
            self._connections.shut_down()
            self._session.close()


def _host_header(netloc: str) -> str:
    if netloc.isascii():
        return netloc
    try:
        return netloc.encode("idna").decode()
    except UnicodeError:  # no such name can be found, so nothing is sent
        return netloc.encode("ascii", "replace").decode()


def _not_sent_reason(error: BaseException) -> str | None:
    """The reason when `error` is one of getting or making the connection (see `pool`), else None."""
    cause = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else None
    if isinstance(cause, ClosedPoolError):
        return _CLOSED
    if isinstance(cause, MaxRetryError) and isinstance(cause.reason, ConnectTimeoutError):
        return _innermost(cause.reason)
    return None


def _innermost(error: BaseException) -> str:
    """The words of the first cause: what the socket said, without the layers around it."""
    while True:
        if isinstance(error, DialError):
            return str(error)
        nested = error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if nested is None:
            return f"{type(error).__name__}: {error}"
        error = nested
