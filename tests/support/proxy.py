"""A TCP proxy that cuts: before a request is delivered, after it, or in the middle of its answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal

Cut = Literal["before_delivery", "after_delivery", "half_response"]


class CuttingProxy:
    """Forwards HTTP/1.1 to 127.0.0.1:`port`. `cut_next(marker, cut)` arms one cut of the next request that has `marker` in
    its head; everything else passes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._armed: list[tuple[bytes, Cut]] = []
        self._lock = threading.Lock()
        self.requests: list[bytes] = []
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next(self, marker: bytes, cut: Cut) -> None:
        with self._lock:
            self._armed.append((marker, cut))

    def posts(self, marker: bytes) -> int:
        """How many requests whose head has `marker` came to the proxy."""
        with self._lock:
            return sum(marker in head for head in self.requests)

    def close(self) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while True:
                request = _message(client)
                if not request:
                    return
                head = request.split(b"\r\n\r\n", 1)[0]
                cut = self._take(head)
                if cut == "before_delivery":
                    _reset(client)
                    return
                with socket.create_connection(("127.0.0.1", self._target)) as server:
                    server.sendall(request)
                    response = _message(server)
                if cut == "after_delivery":
                    _reset(client)
                    return
                if cut == "half_response":
                    client.sendall(response[: len(response) // 2])
                    return
                client.sendall(response)

    def _take(self, head: bytes) -> Cut | None:
        with self._lock:
            self.requests.append(head)
            for armed in self._armed:
                if armed[0] in head:
                    self._armed.remove(armed)
                    return armed[1]
        return None


def _message(sock: socket.socket) -> bytes:
    """One HTTP message with Content-Length, or none; empty when the peer closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + b"\r\n\r\n" + body


def _reset(sock: socket.socket) -> None:
    """Close with RST (socket(7), SO_LINGER)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
