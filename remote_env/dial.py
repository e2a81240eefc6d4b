"""Making a TCP connection: each address of a name in turn, each failure kept with what it was and where."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

from remote_env.trace import trace

_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


class Address(NamedTuple):
    """One address that was tried: which of how many, and where."""

    host: str
    port: int
    family: str
    number: int
    of: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}, {self.family}, attempt {self.number} of {self.of}"


class DialError(OSError):
    """No address took a connection: not a byte was sent. Says of each which error it was."""


def dial(
    host: str,
    port: int,
    timeout_s: float,
    options: list[tuple[int, int, int]],
    *,
    begun: Callable[[socket.socket], None],
    ended: Callable[[socket.socket], None],
) -> tuple[socket.socket, Address]:
    """Connects to the first address of the name that answers within `timeout_s` seconds.

    `begun` is told of each socket before it connects, so that somebody can shut it down; what it raises is raised.
    `ended`: it is connected, or closed. Raises DialError.
    """
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DialError(f"{host}: {type(error).__name__}: {error}; no byte was sent") from error
    failures: list[str] = []
    for number, (family, kind, protocol, _, where) in enumerate(found, start=1):
        address = Address(str(where[0]), port, _FAMILIES.get(family, str(family)), number, len(found))
        try:
            sock = _connected(family, kind, protocol, where, timeout_s, options, begun, ended)
        except ConnectionAbortedError:
            raise
        except OSError as error:
            failures.append(f"{type(error).__name__}: {error} ({address})")
            trace("transport", "no connection: %s; no byte was sent", failures[-1])
            continue
        trace("transport", "connected to %s", address)
        return sock, address
    raise DialError("; ".join(failures or [f"{host} has no address"]) + "; no byte was sent")


def _connected(
    family: int,
    kind: int,
    protocol: int,
    where: object,
    timeout_s: float,
    options: list[tuple[int, int, int]],
    begun: Callable[[socket.socket], None],
    ended: Callable[[socket.socket], None],
) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(timeout_s or None)
        begun(sock)
        try:
            sock.connect(where)  # type: ignore[arg-type]
        finally:
            ended(sock)
    except BaseException:
        sock.close()
        raise
    return sock
