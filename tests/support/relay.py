"""A TCP relay that can hold back what a client sends, and let it go after that client has gone: a link that is dead at one end only."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass
class Link:
    """One client's connection, and its own to the server."""

    client: socket.socket
    server: socket.socket
    holding: bool = False
    held: bytearray = field(default_factory=bytearray)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def hold(self) -> None:
        """From now on what the client sends goes no further."""
        with self.changed:
            self.holding = True

    def wait_held(self, wanted: int) -> None:
        """Until it holds so many bytes."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.held) >= wanted, 30)

    def break_off(self) -> None:
        """The client's end breaks; the server hears nothing of it."""
        self.client.shutdown(socket.SHUT_RDWR)

    def let_go(self) -> None:
        """What was held reaches the server, where that still listens."""
        with self.changed, contextlib.suppress(OSError):
            self.server.sendall(self.held)


class Relay:
    """Forwards to HOST:`port`; `links` are in the order in which they came."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.links: list[Link] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for link in self.links:
            for end in (link.client, link.server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for link in self.links:
            link.client.close()
            link.server.close()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.links.append(Link(client, socket.create_connection((HOST, self._target))))
            self._threads.append(threading.Thread(target=self._forward, args=(self.links[-1],)))
            self._threads[-1].start()

    def _forward(self, link: Link) -> None:
        """A client that has gone keeps its connection to the server open."""
        ends = [link.client, link.server]
        while link.server in ends:
            for end in select.select(ends, [], [])[0]:
                try:
                    data = end.recv(1 << 16)
                except OSError:
                    data = b""
                if not data:
                    ends.remove(end)
                elif end is link.server:
                    with contextlib.suppress(OSError):  # the client has gone
                        link.client.sendall(data)
                else:
                    self._pass_on(link, data)

    @staticmethod
    def _pass_on(link: Link, data: bytes) -> None:
        with link.changed:
            if link.holding:
                link.held += data
                link.changed.notify_all()
            else:
                link.server.sendall(data)
