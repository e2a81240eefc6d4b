"""Bodies of uploads: large ones, which are taken from the connection, and the connection afterwards; and a server that stops."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import pytest

from remote_env.filemodels import HASHED
from server.fileagent import FileAgent
from tests.files.test_routes import hashed, refused, url
from tests.support.outside import until
from tests.unit.server.harness import EPOCH_OF_SANDBOX, PATIENCE_S, TOKEN, Reply, RunningServer

LARGE = os.urandom(3 << 20) + b"and a little more"
HEADERS = {**EPOCH_OF_SANDBOX, "Authorization": f"Bearer {TOKEN}", "Content-Type": HASHED}


@contextmanager
def connected(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as sock:
        yield sock


def head(method: str, path: str, length: int | None, **more: str) -> bytes:
    framing = {} if length is None else {"Content-Length": str(length)}
    lines = [f"{name}: {value}\r\n" for name, value in {"Host": "127.0.0.1", **HEADERS, **framing, **more}.items()]
    return f"{method} {url(path)} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def answer(sock: socket.socket) -> Reply:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return Reply(response.status, response.headers, response.read())


@pytest.mark.parametrize("together", [0, 1, 5000, 100_000, len(LARGE)])
def test_large_body_is_whole_however_much_of_it_comes_with_the_head(server: RunningServer, root: Path, together: int) -> None:
    body = hashed(LARGE)
    with connected(server) as sock:
        sock.sendall(head("PUT", "/large", len(body)) + body[:together])
        sock.sendall(body[together:])
        assert answer(sock).status == 201
    assert (root / "large").read_bytes() == LARGE


def test_connection_goes_on_behind_a_large_body(server: RunningServer, root: Path) -> None:
    body = hashed(LARGE)
    with connected(server) as sock:
        for number in range(3):
            sock.sendall(head("PUT", f"/large{number}", len(body)) + body)
            assert answer(sock).status == 201
        sock.sendall(head("GET", "/large1", None))
        assert answer(sock).body == LARGE


def test_request_that_came_right_behind_a_large_body_is_answered(server: RunningServer, root: Path) -> None:
    body = hashed(LARGE)
    with connected(server) as sock:
        sock.sendall(head("PUT", "/large", len(body)) + body + head("DELETE", "/large", None))
        assert answer(sock).status == 201
        assert answer(sock).status == 200
    assert os.listdir(root) == []


def test_rest_of_a_large_body_that_is_refused_is_passed_over(server: RunningServer, root: Path) -> None:
    """An answer that comes before all was sent must not cost the connection, nor be lost with it."""
    (root / "directory").mkdir()
    body = hashed(LARGE)
    with connected(server) as sock:
        sock.sendall(head("PUT", "/directory", len(body)) + body[:1000])
        refused(answer(sock), "is_directory")
        sock.sendall(body[1000:] + head("PUT", "/file", len(hashed(b"x"))) + hashed(b"x"))
        assert answer(sock).status == 201
    assert (root / "file").read_bytes() == b"x"


def test_damaged_large_body_is_refused_and_leaves_nothing(server: RunningServer, root: Path) -> None:
    body = hashed(LARGE)[:-1] + b"!"
    with connected(server) as sock:
        sock.sendall(head("PUT", "/large", len(body)) + body)
        refused(answer(sock), "damaged")
    until(lambda: os.listdir(root) == [], "the agent to remove what it had begun")


def test_client_that_asks_before_it_sends_is_told_to_go_on(server: RunningServer, root: Path) -> None:
    """As curl does with every large file."""
    body = hashed(LARGE)
    with connected(server) as sock:
        sock.sendall(head("PUT", "/large", len(body), Expect="100-continue"))
        line = b"HTTP/1.1 100 Continue\r\n\r\n"
        got = b""
        while len(got) < len(line):
            got += sock.recv(len(line) - len(got))
        assert got == line
        sock.sendall(body)
        assert answer(sock).status == 201


@pytest.mark.parametrize("length", [len(hashed(LARGE)), 1000, None], ids=["large", "small", "chunked"])
def test_upload_that_stands_still_is_told_at_once_that_the_server_stops(server: RunningServer, root: Path, length: int | None) -> None:
    (root / "file").write_bytes(b"as it was")
    begun = threading.Event()
    agent = server.services.file_agent
    assert agent is not None

    def announced() -> AbstractAsyncContextManager[FileAgent]:
        begun.set()
        return agent()

    server.services.file_agent = announced
    with connected(server) as sock:
        more = {"Transfer-Encoding": "chunked"} if length is None else {}
        sock.sendall(head("PUT", "/file", length, **more) + (b"a\r\n" if length is None else b"") + b"the begin\n")
        assert begun.wait(PATIENCE_S)
        server.loop.call_soon_threadsafe(server.lifetime.stop)
        reply = answer(sock)
        refused(reply, "stopping")
        assert json.loads(reply.body)["accepted"] is False
    server.stop()
    assert (root / "file").read_bytes() == b"as it was"
    until(lambda: os.listdir(root) == ["file"], "the agent to remove what it had begun")


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_client_that_goes_away_in_the_middle_leaves_nothing(server: RunningServer, root: Path, size: int) -> None:
    with connected(server) as sock:
        sock.sendall(head("PUT", "/large", len(hashed(LARGE))) + LARGE[:size])
    with connected(server) as sock:
        sock.sendall(head("PUT", "/file", len(hashed(b"x"))) + hashed(b"x"))
        assert answer(sock).status == 201
    until(lambda: os.listdir(root) == ["file"], "the agent to remove what it had begun")
