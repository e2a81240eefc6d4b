"""…/input, …/resize and …/terminal over HTTP, in front of the fake services."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from remote_env.protocol import COUNTED_SUBPROTOCOL, EPOCH_HEADER, INPUT_LIMIT, INSTANCE_HEADER, OFFSET_HEADER, TERMINAL_SUBPROTOCOL
from tests.unit.server.fakes import EPOCH, OTHER_EPOCH, SANDBOX
from tests.unit.server.harness import PATIENCE_S, TOKEN, RunningServer, assert_problem

EID = "execution-on-a-terminal"
INPUT, RESIZE, TERMINAL = (f"/v1/executions/{EID}/{what}" for what in ("input", "resize", "terminal"))
HEADERS = {"Authorization": f"Bearer {TOKEN}", EPOCH_HEADER: EPOCH}


@pytest.fixture
def hanging(server: RunningServer) -> RunningServer:
    """A server with one execution that runs on a terminal, and goes on."""
    assert server.post(f"/v1/sandboxes/{SANDBOX}/executions", {"id": EID, "command": "hang", "tty": {}}).status == 202
    return server


def sit(server: RunningServer, query: str = "", *, headers: dict[str, str] | None = None, **how: Any) -> ClientConnection:
    how = {"subprotocols": [TERMINAL_SUBPROTOCOL], "open_timeout": PATIENCE_S, "max_size": None, **how}
    given = HEADERS | (headers or {})
    return connect(f"ws://127.0.0.1:{server.port}{TERMINAL}{query}", additional_headers=given, compression=None, **how)


def shown(connection: ClientConnection) -> bytes:
    message = connection.recv(PATIENCE_S)
    assert isinstance(message, bytes)
    return message


def told(connection: ClientConnection) -> dict[str, Any]:
    message = connection.recv(PATIENCE_S)
    assert isinstance(message, str)
    found: dict[str, Any] = json.loads(message)
    return found


def closed(connection: ClientConnection) -> tuple[int, str]:
    """The code and reason that the server closes with."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            connection.recv(PATIENCE_S)
    assert connection.close_code is not None
    return connection.close_code, connection.close_reason or ""


# ---------------------------------------------------------------------------------------------------- input, size


def test_input_answers_the_offset_of_the_next_byte(hanging: RunningServer) -> None:
    first = hanging.post(INPUT, b"hello", **{OFFSET_HEADER: "0"})
    assert (first.status, first.json()) == (202, {"offset": 5})
    again = hanging.post(INPUT, b"hello world", **{OFFSET_HEADER: "0"})
    assert (again.status, again.json()) == (202, {"offset": 11})


def test_a_count_can_be_begun_anew_without_a_byte(hanging: RunningServer) -> None:
    hanging.post(INPUT, b"hello", **{OFFSET_HEADER: "0"})
    assert hanging.post(INPUT, b"", **{OFFSET_HEADER: "restart"}).json() == {"offset": 0}


@pytest.mark.parametrize("offset", ["", "-1", "one", "1e3", "9" * 19])
def test_input_without_a_place_is_refused(hanging: RunningServer, offset: str) -> None:
    assert_problem(hanging.post(INPUT, b"x", **{OFFSET_HEADER: offset}), "invalid", id=EID)


def test_too_much_input_at_once_is_refused(hanging: RunningServer) -> None:
    assert_problem(hanging.post(INPUT, b"x" * (INPUT_LIMIT + 1), **{OFFSET_HEADER: "0"}), "too_large", id=EID)


def test_damaged_input_is_not_typed(hanging: RunningServer) -> None:
    digest = {"Content-Digest": f"sha-256=:{'A' * 43}=:", OFFSET_HEADER: "0"}
    assert_problem(hanging.post(INPUT, b"x", **digest), "damaged", id=EID)
    assert hanging.post(INPUT, b"", **{OFFSET_HEADER: "0"}).json() == {"offset": 0}


@pytest.mark.parametrize(("path", "body"), [(INPUT, b"x"), (RESIZE, {"rows": 1, "cols": 1})])
def test_input_and_size_are_about_an_epoch(hanging: RunningServer, path: str, body: object) -> None:
    offset = {OFFSET_HEADER: "0"}
    assert_problem(hanging.request("POST", path, body, {EPOCH_HEADER: None, **offset}), "epoch_required", id=EID)
    assert_problem(hanging.request("POST", path, body, {EPOCH_HEADER: OTHER_EPOCH, **offset}), "epoch_mismatch", id=EID)


def test_a_size_is_set_and_answered_with_the_execution(hanging: RunningServer) -> None:
    reply = hanging.post(RESIZE, {"rows": 50, "cols": 132})
    assert (reply.status, reply.json()["id"]) == (200, EID)
    assert hanging.services.terminals.sizes == {EID: (50, 132)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [{"rows": 0, "cols": 80}, {"rows": 24}, {"rows": 24, "cols": 1 << 16}, {}])
def test_no_terminal_has_such_a_size(hanging: RunningServer, body: object) -> None:
    assert_problem(hanging.post(RESIZE, body), "invalid", id=EID)


# ------------------------------------------------------------------------------------------------------ WebSocket


def test_who_sits_down_is_told_where_and_sees_what_comes(hanging: RunningServer) -> None:
    hanging.do(hanging.services.write(EID, b"before "))
    with sit(hanging) as connection:
        assert connection.subprotocol == TERMINAL_SUBPROTOCOL
        assert told(connection) == {"type": "at", "offset": 7, "input": 0}
        hanging.do(hanging.services.write(EID, b"now"))
        assert shown(connection) == b"now"


def test_a_broken_link_is_taken_up_at_the_offset(hanging: RunningServer) -> None:
    hanging.do(hanging.services.write(EID, b"before "))
    with sit(hanging, "?from=3") as connection:
        assert told(connection) == {"type": "at", "offset": 3, "input": 0}
        assert shown(connection) == b"ore "


def test_what_is_typed_arrives_in_order(hanging: RunningServer) -> None:
    with sit(hanging) as connection:
        told(connection)
        connection.send(b"one ")
        connection.send(b"two")
        seen = b""
        while len(seen) < 7:
            seen += shown(connection)
        assert seen == b"one two"
    with sit(hanging) as connection:
        assert told(connection)["input"] == 7


def sit_counted(server: RunningServer, typist: str = "a-typist") -> ClientConnection:
    return sit(server, f"?typist={typist}", subprotocols=[COUNTED_SUBPROTOCOL, TERMINAL_SUBPROTOCOL])


def placed(offset: int, data: bytes) -> bytes:
    return offset.to_bytes(8, "big") + data


def test_what_a_typist_sends_again_over_another_link_is_typed_once(hanging: RunningServer) -> None:
    with sit_counted(hanging) as older:
        assert older.subprotocol == COUNTED_SUBPROTOCOL
        assert told(older) == {"type": "at", "offset": 0, "input": 0}
        older.send(placed(0, b"one "))
        assert shown(older) == b"one "
        with sit_counted(hanging) as newer:
            assert told(newer) == {"type": "at", "offset": 4, "input": 4}
            newer.send(placed(0, b"one two"))
            newer.send(placed(4, b"two"))
            newer.send(placed(7, b"."))
            seen = b""
            while len(seen) < 4:
                seen += shown(newer)
            assert seen == b"two."
        assert closed(older) == (1001, "its typist has come over another link")


def test_each_typist_has_a_count_of_their_own(hanging: RunningServer) -> None:
    with sit_counted(hanging) as one, sit_counted(hanging, "another-typist") as other:
        told(one), told(other)
        one.send(placed(0, b"from one "))
        assert shown(one) == shown(other) == b"from one "
        other.send(placed(0, b"from the other"))
        assert shown(one) == b"from the other"


def test_input_behind_a_gap_or_without_a_place_is_refused(hanging: RunningServer) -> None:
    for message in (placed(5, b"late"), b"short"):
        with sit_counted(hanging) as connection:
            told(connection)
            connection.send(message)
            assert closed(connection) == (4422, "invalid")


def test_a_client_that_cannot_count_is_served_as_ever(hanging: RunningServer) -> None:
    with sit(hanging, "?typist=a-typist") as connection:
        assert connection.subprotocol == TERMINAL_SUBPROTOCOL
        told(connection)
        connection.send(b"uncounted")
        assert shown(connection) == b"uncounted"


def test_a_typist_is_named_by_an_id(hanging: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        sit_counted(hanging, "../etc")
    assert refused.value.response.status_code == 422


def test_a_terminals_size_is_set_and_signals_are_sent(hanging: RunningServer) -> None:
    with sit(hanging) as connection:
        told(connection)
        connection.send(json.dumps({"type": "signal", "signal": 2}))
        connection.send(json.dumps({"type": "resize", "rows": 50, "cols": 132}))
        assert shown(connection) == b"resized"
    assert hanging.services.terminals.sizes == {EID: (50, 132)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", '{"type": "dance"}', '{"type": "resize"}', '{"type": "signal", "signal": 99}', "[" * 9999]
)
def test_what_is_not_understood_ends_the_connection(hanging: RunningServer, text: str) -> None:
    with sit(hanging) as connection:
        told(connection)
        connection.send(text)
        assert closed(connection) == (4422, "invalid")


def test_the_end_of_the_program_is_told_whole_and_ends_the_connection(hanging: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.terminal"), sit(hanging) as connection:
        told(connection)
        hanging.do(hanging.services.finish(EID))
        ended = told(connection)
        assert (ended["type"], ended["execution"]["id"], ended["execution"]["outcome"]["code"]) == ("ended", EID, 0)
        assert closed(connection) == (1000, "")
    assert ("terminal closed", 1000) in [(record.message, getattr(record, "code", None)) for record in caplog.records]


def test_an_end_while_something_is_typed_is_an_end_and_no_failure(hanging: RunningServer) -> None:
    with sit(hanging) as connection:
        told(connection)
        hanging.loop.call_soon_threadsafe(hanging.services.terminals.reading.clear)  # type: ignore[attr-defined]
        connection.send(b"x")
        hanging.do(hanging.services.finish(EID))
        hanging.loop.call_soon_threadsafe(hanging.services.terminals.reading.set)  # type: ignore[attr-defined]
        assert told(connection)["type"] == "ended"
        assert closed(connection) == (1000, "")


def test_who_sits_down_late_sees_it_all_and_the_end(hanging: RunningServer) -> None:
    hanging.do(hanging.services.write(EID, b"said"))
    hanging.do(hanging.services.finish(EID))
    with sit(hanging, "?from=0") as connection:
        assert told(connection)["type"] == "at"
        assert shown(connection) == b"said"
        assert told(connection)["type"] == "ended"
        assert closed(connection) == (1000, "")


def test_a_server_that_stops_says_come_again(server: RunningServer) -> None:
    assert server.post(f"/v1/sandboxes/{SANDBOX}/executions", {"id": EID, "command": "hang", "tty": {}}).status == 202
    with sit(server) as connection:
        told(connection)
        server.loop.call_soon_threadsafe(server.lifetime.stop)
        code, reason = closed(connection)
        assert (code, "come again" in reason) == (1001, True)


def test_who_leaves_is_logged_with_the_code_and_forgotten(hanging: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.terminal"):
        with sit(hanging) as connection:
            told(connection)
            assert hanging.sample("terminals") == 1
            connection.close(4000, "bye")
        hanging.stop()  # when its connections are over
        assert hanging.services.following == hanging.sample("terminals") == 0
    assert ("terminal closed", 4000) in [(record.message, getattr(record, "code", None)) for record in caplog.records]


def test_a_program_that_never_reads_does_not_fill_the_servers_memory(hanging: RunningServer) -> None:
    hanging.loop.call_soon_threadsafe(hanging.services.terminals.reading.clear)  # type: ignore[attr-defined]
    with sit(hanging) as connection:
        told(connection)
        for _ in range(5):
            connection.send(b"x" * INPUT_LIMIT)
        assert closed(connection) == (4429, "too_many")


# ---------------------------------------------------------------------------------------------------- who is let in


def refused(server: RunningServer, query: str = "", *, headers: dict[str, str] | None = None, **how: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refusal:
        sit(server, query, headers=headers, **how)
    response = refusal.value.response
    problem = json.loads(response.body or b"")
    assert problem["status"] == response.status_code
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Remote-Env-Protocol"] == "1"
    return response.status_code, problem["code"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer wrong"}, 401, "unauthorized"),
        ({"Origin": "http://127.0.0.1"}, 403, "forbidden"),
        ({EPOCH_HEADER: OTHER_EPOCH}, 412, "epoch_mismatch"),
        ({EPOCH_HEADER: ""}, 428, "epoch_required"),
    ],
)
def test_a_web_socket_is_let_in_as_any_request_is(hanging: RunningServer, headers: dict[str, str], status: int, code: str) -> None:
    assert refused(hanging, headers=headers) == (status, code)
    assert hanging.services.following == 0


def test_a_web_socket_without_a_token_is_refused(hanging: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://127.0.0.1:{hanging.port}{TERMINAL}", additional_headers={EPOCH_HEADER: EPOCH})
    assert refusal.value.response.status_code == 401


def test_a_rebound_host_is_refused(hanging: RunningServer) -> None:
    peer = socket.create_connection(("127.0.0.1", hanging.port), PATIENCE_S)
    with peer, pytest.raises(InvalidStatus) as refusal:
        connect(f"ws://evil.example:{hanging.port}{TERMINAL}", sock=peer, additional_headers=HEADERS)
    assert refusal.value.response.status_code == 403


def test_an_execution_that_is_unknown_has_no_terminal(server: RunningServer) -> None:
    assert refused(server) == (404, "not_found")


@pytest.mark.parametrize("query", ["?from=now", "?from=-1", "?from=999"])
def test_a_place_that_is_none_is_refused(hanging: RunningServer, query: str) -> None:
    assert refused(hanging, query) == (422, "invalid")


def test_a_client_that_speaks_another_protocol_is_refused(hanging: RunningServer) -> None:
    assert refused(hanging, subprotocols=["chat"]) == (422, "invalid")


def test_the_answer_is_marked_as_ours_and_as_about_this_execution(hanging: RunningServer) -> None:
    with sit(hanging) as connection:
        assert connection.response is not None
        headers = connection.response.headers
        assert (headers["X-Remote-Env-Execution"], headers[EPOCH_HEADER]) == (EID, EPOCH)
        assert headers[INSTANCE_HEADER] == "instance-of-tests"
