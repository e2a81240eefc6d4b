"""A command's answer on its connection: in one piece, in its turn, and the same as any other way of sending it."""

from __future__ import annotations

import gc
import json
import socket
import weakref
from http.client import HTTPResponse
from typing import Any

import pytest

from remote_env.protocol import new_id
from server.connections import HttpProtocol
from tests.support.outside import until
from tests.unit.server.fakes import EPOCH, SANDBOX
from tests.unit.server.harness import PATIENCE_S, TOKEN, RunningServer

PATH = f"/v1/sandboxes/{SANDBOX}/executions"


def post(eid: str, command: str = "hang", *headers: str, path: str = PATH) -> bytes:
    body = json.dumps({"id": eid, "command": command})
    lines = [
        f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}", f"X-Remote-Env-Epoch: {EPOCH}",
        f"Content-Length: {len(body)}", *headers,
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def connect(server: RunningServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def answer(connection: socket.socket) -> tuple[HTTPResponse, Any]:
    response = HTTPResponse(connection)
    response.begin()
    return response, json.loads(response.read())


def test_an_answer_comes_head_and_body_in_one_piece(server: RunningServer) -> None:
    with connect(server) as connection:
        for _ in range(20):
            eid = new_id()
            connection.sendall(post(eid))
            head, _, body = connection.recv(1 << 20).partition(b"\r\n\r\n")
            assert json.loads(body)["id"] == eid
            assert head.lower().count(b"content-length:") == 1


def test_requests_sent_together_are_answered_in_their_order(server: RunningServer) -> None:
    """Though the first is the last to have something to say."""
    ids = [new_id() for _ in range(3)]
    with connect(server) as connection:
        connection.sendall(post(ids[0], "hang", "Prefer: wait=0.2") + b"".join(post(eid) for eid in ids[1:]))
        data = b""
        while data.count(b"HTTP/1.1 ") < 3 or not data.endswith(b"}"):
            piece = connection.recv(1 << 20)
            assert piece, "the connection ended"
            data += piece
    bodies = [part.partition(b"\r\n\r\n")[2] for part in data.split(b"HTTP/1.1 ")[1:]]
    assert [json.loads(body)["id"] for body in bodies] == ids


def test_a_connection_that_is_to_end_is_told_so_and_ends(server: RunningServer) -> None:
    eid = new_id()
    with connect(server) as connection:
        connection.sendall(post(eid, "hang", "Connection: close"))
        response, execution = answer(connection)
        assert (response.headers["Connection"], execution["id"]) == ("close", eid)
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("command", "path", "code"),
    [
        ("commit", PATH, "commit_failed"), ("fail", PATH, "internal"), ("busy", PATH, "capacity"), ("", PATH, "invalid"),
        ("hang", PATH.replace(SANDBOX, "another-sandbox"), "not_found"), ("hang", PATH.replace(SANDBOX, "NO-ID"), "invalid"),
    ],
)  # fmt: skip
def test_a_refusal_is_a_problem_of_ours_and_the_connection_serves_on(server: RunningServer, command: str, path: str, code: str) -> None:
    with connect(server) as connection:
        for _ in range(2):
            connection.sendall(post(new_id(), command, path=path))
            response, problem = answer(connection)
            assert (response.headers["Content-Type"], problem["code"]) == ("application/problem+json", code)
            assert response.headers["X-Remote-Env-Protocol"] == "1"
            if code == "commit_failed":
                return  # the server stops


def test_both_ways_of_sending_an_answer_say_the_same(server: RunningServer) -> None:
    """A connection that is to end gets its answer as any other route's."""
    eid = new_id()
    with connect(server) as connection:
        connection.sendall(post(eid))
        at_once, first = answer(connection)
        connection.sendall(post(eid, "hang", "Connection: close"))
        ordinary, second = answer(connection)
    assert (at_once.status, first) == (ordinary.status, second)
    assert sorted(map(str.lower, at_once.headers)) == sorted({*map(str.lower, ordinary.headers)} - {"connection"})
    for name in ("Content-Digest", "X-Remote-Env-Execution", "X-Remote-Env-Instance", "Content-Type"):
        assert at_once.headers[name] == ordinary.headers[name]


def test_a_connection_that_is_over_is_forgotten_without_the_garbage_collector(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that come with a new connection each time are not to be what it works for."""
    made: weakref.WeakSet[HttpProtocol] = weakref.WeakSet()

    def noted(self: HttpProtocol) -> None:
        made.add(self)
        begins(self)

    begins = HttpProtocol.on_message_begin
    monkeypatch.setattr(HttpProtocol, "on_message_begin", noted)
    gc.disable()
    try:
        with connect(server) as connection:
            connection.sendall(post(new_id()))
            answer(connection)
            assert len(made) == 1
        until(lambda: not made, "it is forgotten")
    finally:
        gc.enable()
