"""Sending a request's body piece by piece, and hearing the server meanwhile."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator

from remote_env.hashed import Piece


class Sending:
    """The pieces of a body, as they are to be sent.

    Below it a socket has the time limit of its connecting while a body is sent, and nobody looks whether an answer comes before
    all of it is sent: a file that may not be written would be sent whole before that is learnt.

    Args:
        connected: the socket that the body goes over, once it is there.
        silence_s: how long one piece may take, in seconds.
    """

    def __init__(self, pieces: Iterable[Piece], connected: Callable[[], socket.socket | None], silence_s: float) -> None:
        self.whole = False  # whether all pieces were taken to be sent
        self._pieces = pieces
        self._connected = connected
        self._silence_s = silence_s

    def __iter__(self) -> Iterator[Piece]:
        sock = self._connected()
        if sock is not None:
            sock.settimeout(self._silence_s)
        for piece in self._pieces:
            if sock is not None and _is_answered(sock):
                return
            yield piece
        self.whole = True


def _is_answered(sock: socket.socket) -> bool:
    """Whether there is something to read, be it the end. Below TLS that may be a message of TLS itself: then only a connection that
    cannot be written to any more tells."""
    if isinstance(sock, ssl.SSLSocket):
        return False
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])
