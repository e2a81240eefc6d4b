"""How a link to an execution's terminal comes about: the connection, the request for a WebSocket, and what a refusal means."""

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from remote_env.config import Endpoint
from remote_env.dial import DialError, dial
from remote_env.errors import InvalidSpec
from remote_env.pool import socket_options
from remote_env.protocol import COUNTED_SUBPROTOCOL, EPOCH_HEADER, TERMINAL_SUBPROTOCOL, Execution

if TYPE_CHECKING:
    from websockets.client import ClientProtocol

HANDSHAKE_S = 10.0
SUBPROTOCOLS = (COUNTED_SUBPROTOCOL, TERMINAL_SUBPROTOCOL)  # by preference
_MESSAGE_LIMIT = 16 << 20  # bytes of one message of the server's: the end carries an execution with its inline output


class LinkBroken(Exception):
    """It does not stand any more, or was never made; another may. `stopping`: the server said that it goes away."""

    def __init__(self, reason: str, *, stopping: bool = False) -> None:
        super().__init__(reason)
        self.stopping = stopping


class LinkRefused(Exception):
    """The server will not have it. `status` is that of HTTP: 401, 404, 409, 410, 412."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason or f"HTTP {status}")
        self.status = status


def require_websockets() -> None:
    """Raises InvalidSpec where this installation has none."""
    try:
        import websockets.client  # noqa: F401
    except ImportError as error:
        raise InvalidSpec(
            f"A terminal needs the package `websockets`, and it is not there ({error}): pip install 'remote-env[shell]'. Nothing was run."
        ) from None


def handshake(endpoint: Endpoint, token: str | None, record: Execution, offset: int | None, typist: str) -> tuple[ClientProtocol, str, Any]:
    require_websockets()
    from websockets.client import ClientProtocol
    from websockets.typing import Subprotocol
    from websockets.uri import parse_uri

    path = f"/v1/executions/{record.id}/terminal?typist={typist}" + ("" if offset is None else f"&from={offset}")
    # ws even over TLS, which is set up here, with the certificate pinned where that is asked for, before a header is sent.
    uri = f"ws{endpoint.url.removeprefix('https').removeprefix('http')}{path}"
    client = ClientProtocol(parse_uri(uri), subprotocols=[Subprotocol(each) for each in SUBPROTOCOLS], max_size=_MESSAGE_LIMIT)
    client.debug = False  # its debug log would have the token in it
    request = client.connect()
    request.headers[EPOCH_HEADER] = record.epoch
    if token:
        request.headers["Authorization"] = f"Bearer {token}"
    return client, path, request


def connected(endpoint: Endpoint, connect_s: float) -> socket.socket:
    """A connected socket that does not block. Raises LinkBroken."""
    parts = urlsplit(endpoint.url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        sock, _ = dial(host, port, connect_s, socket_options(), begun=lambda sock: None, ended=lambda sock: None)
    except DialError as error:
        raise LinkBroken(str(error)) from error
    try:
        sock.settimeout(HANDSHAKE_S)
        if parts.scheme == "https":
            sock = _secured(sock, endpoint, host)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise LinkBroken(f"{type(error).__name__}: {error}") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, endpoint: Endpoint, host: str) -> socket.socket:
    context = endpoint.tls.context()
    context.check_hostname = endpoint.tls.fingerprint is None
    secured = context.wrap_socket(sock, server_hostname=host)
    certificate = secured.getpeercert(binary_form=True) or b""
    if endpoint.tls.fingerprint is not None and hashlib.sha256(certificate).hexdigest() != endpoint.tls.fingerprint:
        secured.close()
        raise LinkBroken("the server's certificate has another fingerprint; nothing was sent")
    return secured


def refusal(status: int, body: bytes) -> LinkBroken | LinkRefused:
    """What an answer other than 101 means: of a proxy's, or of a server's that is busy or stops, that it may be tried again."""
    try:
        problem = json.loads(body)
        reason, retryable = f"{problem['code']}: {problem['detail']}", bool(problem["retryable"])
    except (ValueError, KeyError, TypeError):
        reason, retryable = f"HTTP {status}", status >= 500 or status == 429
    return LinkBroken(reason) if retryable else LinkRefused(status, reason)
