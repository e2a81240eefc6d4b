"""The sockets that the server listens on, and what counts as this machine talking to itself."""

from __future__ import annotations

import errno
import ipaddress
import socket

BACKLOG = 2048  # connections that wait while the event loop is busy, or while the server starts
_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))  # seconds, seconds, probes
_USER_TIMEOUT_MS = 20_000  # keepalive alone leaves a black-holed connection with unacknowledged data hanging
_PORT_TRIES = 20  # with port 0: a port that is free for IPv4 may be taken for IPv6


class CannotListen(Exception):
    """The address cannot be listened on; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine speaking to itself: `localhost` or an address in 127.0.0.0/8 or ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for `host`: both loopbacks for `127.0.0.1` and `localhost`, one for both families for `::`, else
    each address that the name stands for. All have the same port, also when `port` is 0.

    Connections that come before anybody accepts wait in the backlog, so that a client that meets a starting server waits
    rather than fails.

    Raises:
        CannotListen: the name is unknown, an address is not this machine's, or the port is taken.
    """
    addresses = _addresses(host)
    for _ in range(_PORT_TRIES if port == 0 and len(addresses) > 1 else 1):
        sockets: list[socket.socket] = []
        try:
            for family, address in addresses:
                chosen = sockets[0].getsockname()[1] if sockets and port == 0 else port
                try:
                    sockets.append(_listening(family, address, chosen))
                except OSError as error:
                    # A machine without IPv6 still has its 127.0.0.1.
                    if not (sockets and address == "::1" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)):
                        raise
            return sockets
        except OSError as error:
            for each in sockets:
                each.close()
            failure = error
            if error.errno != errno.EADDRINUSE:
                break
    hint = "; another server runs there, or choose another --port" if failure.errno == errno.EADDRINUSE else ""
    raise CannotListen(f"cannot listen on {host} port {port}: {failure.strerror}{hint}")


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host.lower() in ("127.0.0.1", "localhost"):
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}: {error.strerror}") from None
    unique = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    return [(family, address) for family, address in unique if family in (socket.AF_INET, socket.AF_INET6)]


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        # Accepted connections inherit these.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
