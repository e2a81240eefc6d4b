"""A unix-socket proxy in front of an engine's socket: it cuts calls, or answers in the engine's place."""

from __future__ import annotations

import contextlib
import re
import select
import shutil
import socket
import threading
from pathlib import Path

FAILURE = b'{"message":"something broke in the engine"}'


class EngineProxy:
    """Forwards to the engine at `target`; a server is pointed at `url` instead.

    `cut(pattern)`: the next request whose first line fits is delivered whole, its answer is not: the connection is closed.
    `fail(pattern, status)`: every request whose first line fits is answered with this status and never delivered.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self.url = f"unix://{path}"
        self._lock = threading.Lock()
        self._to_cut: list[re.Pattern[str]] = []
        self._to_fail: tuple[re.Pattern[str], int] | None = None
        self.cuts = 0
        self.failures = 0
        threading.Thread(target=self._accept, name="engine-proxy", daemon=True).start()

    def cut(self, pattern: str) -> None:
        with self._lock:
            self._to_cut.append(re.compile(pattern))

    def fail(self, pattern: str | None, status: int = 500) -> None:
        """None: answer with failures no more."""
        with self._lock:
            self._to_fail = None if pattern is None else (re.compile(pattern), status)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="engine-proxy", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
            engine.connect(self._target)
            deliver_only = False
            while True:
                ready, _, _ = select.select([client, engine], [], [])
                if engine in ready:
                    data = engine.recv(1 << 16)
                    if not data or deliver_only:
                        return  # answered: by then the engine has done it
                    client.sendall(data)
                if client in ready:
                    data = client.recv(1 << 16)
                    if not data:
                        return
                    if first := re.match(rb"(GET|POST|DELETE|HEAD) \S+", data):
                        line = first.group().decode()
                        if status := self._failing(line):
                            client.sendall(
                                b"HTTP/1.1 %d Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                                b"Connection: close\r\n\r\n%s" % (status, len(FAILURE), FAILURE)
                            )
                            return
                        deliver_only = self._cutting(line)
                    engine.sendall(data)

    def _cutting(self, line: str) -> bool:
        with self._lock:
            for pattern in self._to_cut:
                if pattern.search(line):
                    self._to_cut.remove(pattern)
                    self.cuts += 1
                    return True
        return False

    def _failing(self, line: str) -> int:
        with self._lock:
            if self._to_fail is None or not self._to_fail[0].search(line):
                return 0
            self.failures += 1
            return self._to_fail[1]


def short_path(directory: Path, name: str) -> Path:
    """A path for a socket: one has to fit in 107 bytes (unix(7)). The directory is made; remove it with `shutil.rmtree`."""
    place = Path("/run") / directory.name
    place.mkdir(mode=0o700, exist_ok=True)
    return place / name


def remove_short_path(path: Path) -> None:
    shutil.rmtree(path.parent, ignore_errors=True)
