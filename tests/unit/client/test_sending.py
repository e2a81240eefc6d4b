"""A body that is sent piece by piece: the server is heard meanwhile, and a broken source is told from a broken link."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from remote_env import Client, FileChanged, Sandbox, SandboxPermissionError
from remote_env.driving import drive
from remote_env.packing import PIECE_BYTES, Unreadable
from remote_env.problems import Problem
from remote_env.protocol import Sandbox as Record
from remote_env.sending import Sending
from tests.unit.client.conftest import FAST

RECORD = Record(id="sandbox-1", run_id="run-12345", image="image", state="running", epoch="epoch1")
HEAD = "X-Remote-Env-Protocol: 1\r\nX-Remote-Env-Sandbox: sandbox-1\r\nX-Remote-Env-Epoch: epoch1\r\n"


class Hasty:
    """A server that refuses each request as soon as its head has come, and does not read its body."""

    def __init__(self) -> None:
        self.connections = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        held = []
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                break
            self.connections += 1
            held.append(connection)  # not closed, and never read again
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1000)
            body = Problem.of("permission_denied", "/f").model_dump_json()
            answer = f"HTTP/1.1 403 -\r\n{HEAD}Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            connection.sendall(answer.encode())
        for connection in held:
            connection.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def hasty() -> Iterator[Hasty]:
    server = Hasty()
    yield server
    server.close()


class Endless:
    """A file object that has more than any socket takes without a reader, and counts what was taken of it."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.taken = 0
        return self.size if whence == 2 else offset

    def read(self, count: int) -> bytes:
        size = min(count, self.size - self.taken)
        self.taken += size
        return bytes(size)


def test_a_refusal_that_comes_while_the_body_is_sent_ends_the_sending(hasty: Hasty) -> None:
    """A gigabyte to a path that may not be written: the server says so at once, and reads no more."""
    file = Endless(1 << 30)
    with Client(hasty.url, "token", timings=replace(FAST, request_s=30.0)) as client:
        sandbox = Sandbox(client, RECORD)
        with pytest.raises(SandboxPermissionError):
            sandbox.write("/f", file)  # type: ignore[arg-type]
        assert file.taken < 1 << 29
        with pytest.raises(SandboxPermissionError):  # over another connection: this one still waits for the rest
            sandbox.write("/f", b"x")
    assert hasty.connections == 2


def test_a_body_is_sent_whole_where_nobody_speaks() -> None:
    here, there = socket.socketpair()
    with here, there:
        sending = Sending([b"a", b"b"], lambda: here, 7.0)
        assert not sending.whole
        assert list(sending) == [b"a", b"b"]
        assert sending.whole
        assert here.gettimeout() == 7.0
        there.sendall(b"no")
        sending = Sending([b"a", b"b"], lambda: here, 7.0)
        assert list(sending) == []
        assert not sending.whole


class Breaking:
    """A source that breaks in its middle, as a disk does."""

    size = 10 * PIECE_BYTES

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error

    def pieces(self) -> Iterator[bytes]:
        yield bytes(PIECE_BYTES)
        raise self._error()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (lambda: Unreadable(OSError(5, "Input/output error")), OSError),
        (lambda: Unreadable(ConnectionResetError(104, "a network disk's")), ConnectionResetError),
        (lambda: FileChanged("it changed"), FileChanged),
    ],
)
def test_a_source_that_cannot_be_read_is_no_broken_link(tmp_path: Path, error: Callable[[], Exception], kind: type[Exception]) -> None:
    from remote_env.filemodels import WrittenFile
    from remote_env.filerequests import FileRequests
    from tests.unit.client.fakefiles import FakeFiles
    from tests.unit.client.fakeserver import TOKEN

    with FakeFiles(tmp_path) as fake, Client(fake.url, TOKEN, timings=FAST) as client:
        sandbox = client.create_sandbox("image")
        requests = FileRequests(client.exchange, sandbox.id, sandbox.epoch)
        with pytest.raises(kind):
            drive(requests.send(WrittenFile, requests.url("/f"), Breaking(error), "/f"))
        assert client.stats()["retries"] == 0
        assert list(tmp_path.iterdir()) == []
        sandbox.write("/f", b"and the client goes on")
