"""Waiting that ends early when a peer closes a connection that stands idle, or when somebody has news."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from enum import Enum


class Waited(Enum):
    OUT = "the time is over"
    WOKEN = "somebody called wake()"
    CLOSED = "a peer has closed or reset its connection"


class PeerWatch:
    """For one thread to wait on; any thread may wake it. Holds two descriptors until it is closed."""

    def __init__(self) -> None:
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)

    def wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except (BlockingIOError, OSError):
            return  # full: it is awake already; closed: nobody waits any more

    def wait(self, sockets: Sequence[socket.socket], seconds: float) -> Waited:
        """Waits for at most so many seconds, or until a peer of one of the idle `sockets` has closed it."""
        watched = [sock for sock in sockets if sock.fileno() >= 0]
        ready = _ready(self._woken, watched, max(0.0, seconds))
        if self._woken in ready:
            while True:
                try:
                    if not self._woken.recv(4096):
                        break
                except (BlockingIOError, OSError):
                    break
            return Waited.WOKEN
        if any(_is_closed(sock) for sock in watched if sock in ready):
            return Waited.CLOSED
        return Waited.OUT

    def close(self) -> None:
        self._waker.close()
        self._woken.close()


_HANG_UP = getattr(select, "POLLRDHUP", 0)  # Linux: the peer's FIN, whatever else is there to read (TLS tickets are)


def _ready(woken: socket.socket, watched: Sequence[socket.socket], seconds: float) -> list[socket.socket]:
    if not hasattr(select, "poll"):
        return select.select([woken, *watched], [], [], seconds)[0]
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    by_number = {woken.fileno(): woken}
    for sock in watched:
        poll.register(sock, _HANG_UP or select.POLLIN)
        by_number[sock.fileno()] = sock
    return [by_number[number] for number, _ in poll.poll(seconds * 1000)]


def _is_closed(sock: socket.socket) -> bool:
    if _HANG_UP:
        return True
    try:
        return not socket.socket.recv(sock, 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
