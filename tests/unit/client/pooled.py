"""The pooled session as its tests have it, and a server's answers to it."""

from __future__ import annotations

import socket
from dataclasses import replace

from remote_env.config import Endpoint
from remote_env.transport import Transport
from tests.unit.client.badserver import answer
from tests.unit.client.conftest import FAST

OK = answer("200 OK", b"{}")


def transport(url: str, *, pool_size: int = 10, **timings: float) -> Transport:
    return Transport(Endpoint.resolve(url, "token"), replace(FAST, **timings), pool_size=pool_size)


def keep(connection: socket.socket, request: bytes) -> bool:
    connection.sendall(OK)
    return True
