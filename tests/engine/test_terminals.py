"""Terminals on real ptys, over plain HTTP and WebSocket."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from remote_env import Sandbox
from remote_env.backoff import Backoff
from remote_env.cli.attached import Attachment
from remote_env.cli.terminallink import TerminalLink
from remote_env.config import Endpoint
from remote_env.protocol import EPOCH_HEADER, TERMINAL_SUBPROTOCOL, Execution
from remote_env.timings import Timings
from tests.support.outside import until
from tests.support.relay import Relay
from tests.support.server import SANDBOX, SMALL, Server
from tests.support.sessions import PATIENCE_S, Session, Wire

MakeServer = Callable[..., Server]
CAT = "stty raw -echo; echo ready; exec cat"  # gives back every byte that it is given
DEAF = "stty raw -echo; echo ready; exec sleep 300"  # reads nothing


@pytest.fixture
def wire(server: Server, debian: Sandbox) -> Wire:
    assert debian.epoch is not None
    return Wire(server, debian.id, debian.epoch)


@pytest.fixture
def started(wire: Wire) -> Iterator[Callable[..., str]]:
    """Start a program on a terminal, and wait until it has said `until`; cancelled after the test."""
    begun: list[str] = []

    def start(command: str, until: bytes = b"ready", **tty: Any) -> str:
        begun.append(wire.start(command=command, tty=tty, timeout_s=None, grace_s=0.1))
        wire.says(begun[-1], until)
        return begun[-1]

    yield start
    for eid in begun:
        wire.cancel(eid)


def sit(wire: Wire, eid: str, offset: int | None = None) -> ClientConnection:
    query = "" if offset is None else f"?from={offset}"
    return connect(
        f"{wire.server.url.replace('http', 'ws', 1)}/v1/executions/{eid}/terminal{query}", subprotocols=[TERMINAL_SUBPROTOCOL],
        additional_headers={"Authorization": f"Bearer {wire.server.token}", EPOCH_HEADER: wire.epoch}, compression=None, proxy=None,
    )  # fmt: skip


def told(connection: ClientConnection) -> dict[str, Any]:
    message = connection.recv(PATIENCE_S)
    assert isinstance(message, str), message
    found: dict[str, Any] = json.loads(message)
    return found


def shown(connection: ClientConnection, wanted: bytes) -> bytes:
    """What it shows up to and with that."""
    seen = b""
    while wanted not in seen:
        message = connection.recv(PATIENCE_S)
        assert isinstance(message, bytes), message
        seen += message
    return seen


def told_at_the_end(connection: ClientConnection) -> dict[str, Any]:
    """The next text message, whatever is shown before it."""
    while isinstance(message := connection.recv(PATIENCE_S), bytes):
        pass
    found: dict[str, Any] = json.loads(message)
    return found


# ------------------------------------------------------------------------------------------------- a pty of its own


def test_a_program_on_a_terminal_finds_one(wire: Wire) -> None:
    found = wire.run(command="tty -s && stty size && echo $TERM && echo err >&2", tty={"rows": 50, "cols": 132, "term": "vt100"})
    assert (found["tty"], found["outcome"]["code"]) == (True, 0)
    assert found["output"]["text"] == "50 132\r\nvt100\r\nerr\r\n"


@pytest.mark.parametrize(("echo", "seen"), [(True, b"typed\r\ntyped\r\n"), (False, b"typed\r\n")])
def test_what_is_typed_is_shown_where_that_was_not_turned_off(wire: Wire, echo: bool, seen: bytes) -> None:
    eid = wire.start(command="head -n1", tty={"echo": echo})
    assert wire.type_in(eid, b"typed\n", 0).json() == {"offset": 6}
    wire.over(eid)
    assert wire.output(eid) == seen


def test_all_output_is_there_though_the_end_may_be_told_before_it(wire: Wire) -> None:
    for _ in range(10):
        found = wire.run(command="seq 2000; printf end", tty={})
        assert wire.output(found["id"]) == b"".join(b"%d\r\n" % number for number in range(1, 2001)) + b"end"


def test_control_c_reaches_the_program(wire: Wire) -> None:
    eid = wire.start(command="trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done", tty={})
    wire.says(eid, b"ready")
    wire.type_in(eid, b"\x03", 0)
    found = wire.over(eid)
    assert found["outcome"]["code"] == 9
    assert b"caught" in wire.output(eid)


def test_a_new_size_is_told_to_the_program(wire: Wire, started: Callable[..., str]) -> None:
    eid = started("trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
    assert wire("POST", f"/v1/executions/{eid}/resize", json={"rows": 33, "cols": 99}).status_code == 200
    wire.says(eid, b"33 99")


def test_a_terminals_timeout_is_any_commands(wire: Wire) -> None:
    found = wire.run(command="echo ready; sleep 300", tty={}, timeout_s=0.3, grace_s=0.1)
    assert (found["outcome"]["kind"], found["output"]["text"]) == ("timed_out", "ready\r\n")


# ---------------------------------------------------------------------------------------------------------- input


def test_input_that_is_sent_again_is_typed_once(wire: Wire, started: Callable[..., str]) -> None:
    eid = started(CAT)
    assert wire.type_in(eid, b"one ", 0).json() == {"offset": 4}
    assert wire.type_in(eid, b"one ", 0).json() == {"offset": 4}
    assert wire.type_in(eid, b"one two.", 0).json() == {"offset": 8}
    assert wire.says(eid, b".").replace(b"ready\r\n", b"").endswith(b"one two.")
    missing = wire.type_in(eid, b"x", 100)
    assert (missing.status_code, missing.json()["code"]) == (409, "wrong_state")


def test_a_large_input_arrives_whole(wire: Wire, started: Callable[..., str]) -> None:
    eid = started(CAT)
    content = b"".join(b"%07d\n" % number for number in range(100_000)) + b"end."
    at = 0
    while at < len(content):
        at = wire.type_in(eid, content[at : at + (1 << 20)], at).json()["offset"]
    assert wire.says(eid, b"end.").endswith(content)


def test_what_a_program_never_reads_is_refused_after_a_while(wire: Wire, started: Callable[..., str]) -> None:
    eid = started(DEAF)
    at, reply = 0, wire.type_in(eid, b"x" * (1 << 20), 0)
    if reply.status_code == 202:  # so much fits into the terminal itself
        at = reply.json()["offset"]
        reply = wire.type_in(eid, b"x" * 1000, at)
    assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (429, "too_many", True)


def test_what_runs_on_no_terminal_or_is_over_takes_no_input(wire: Wire) -> None:
    plain = wire.start(command="sleep 0.5")
    for eid in (plain, wire.run(command="true", tty={})["id"]):
        assert wire.type_in(eid, b"x", 0).json()["code"] == "wrong_state"
        assert wire("POST", f"/v1/executions/{eid}/resize", json={"rows": 1, "cols": 1}).json()["code"] == "wrong_state"


def test_a_new_server_does_not_know_what_was_typed_and_says_so(make_server: MakeServer, sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        wire = Wire(server, sandbox.id, str(sandbox.epoch))
        eid = wire.start(command=CAT, tty={}, timeout_s=None)
        wire.says(eid, b"ready")
        wire.type_in(eid, b"one ", 0)
        wire.says(eid, b"one ")
        server.restart()
        unknown = wire.type_in(eid, b"two ", 4)
        assert (unknown.status_code, unknown.json()["code"], unknown.json()["accepted"]) == (409, "input_unknown", "unknown")
        assert wire.type_in(eid, b"", "restart").json() == {"offset": 0}
        assert wire.type_in(eid, b"two.", 0).json() == {"offset": 4}
        assert wire.says(eid, b"two.").endswith(b"one two.")


# ------------------------------------------------------------------------------------------------------ WebSocket


def test_a_person_at_a_shell(wire: Wire) -> None:
    eid = wire.start(command="PS1='$ ' exec bash --norc --noprofile", tty={"rows": 40}, timeout_s=None)
    with sit(wire, eid, 0) as connection:
        assert told(connection) == {"type": "at", "offset": 0, "input": 0}
        shown(connection, b"$ ")
        connection.send(b"echo $((6 * 7)); stty size\r")
        shown(connection, b"42\r\n40 80\r\n")
        connection.send(json.dumps({"type": "resize", "rows": 33, "cols": 99}))
        connection.send(b"stty size\r")
        shown(connection, b"33 99\r\n")
        connection.send(b"sleep 300\r")
        shown(connection, b"sleep 300\r\n")
        connection.send(b"\x03")
        shown(connection, b"$ ")
        connection.send(b"exit 7\r")
        last = told_at_the_end(connection)
        assert (last["type"], last["execution"]["outcome"]["code"]) == ("ended", 7)
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(PATIENCE_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1000


def test_a_terminal_is_taken_up_where_it_was_left_and_nothing_is_missed(wire: Wire, started: Callable[..., str]) -> None:
    eid = started(CAT)
    with sit(wire, eid) as connection:
        at = told(connection)["offset"]
        connection.send(b"one.")
        at += len(shown(connection, b"."))
        connection.close_socket()  # the link breaks
    wire.type_in(eid, b"two.", 4)
    with sit(wire, eid, at) as connection:
        assert told(connection) == {"type": "at", "offset": at, "input": 8}
        assert shown(connection, b".") == b"two."


def test_two_people_at_one_terminal_see_the_same(wire: Wire, started: Callable[..., str]) -> None:
    eid = started(CAT)
    with sit(wire, eid) as one, sit(wire, eid) as other:
        told(one), told(other)
        one.send(b"from one.")
        assert shown(one, b".") == shown(other, b".") == b"from one."
        other.send(b"from the other.")
        assert shown(one, b".") == shown(other, b".") == b"from the other."


def test_what_a_dead_link_lets_go_late_is_typed_once(wire: Wire, started: Callable[..., str]) -> None:
    """Its client has gone, and its bytes come after those that were sent again over the next link. They are counted in the sandbox."""
    eid = started("stty raw -echo; rm -f /tmp/typed; echo ready; exec dd bs=1 count=13 of=/tmp/typed")
    relay = Relay(wire.server.port)
    record = Execution.model_validate(wire.show(eid))
    endpoint = Endpoint(f"http://127.0.0.1:{relay.port}", wire.server.token)

    def link_again(offset: int | None) -> TerminalLink:
        return TerminalLink.open(endpoint, wire.server.token, record, offset=offset, typist="a-typist", timings=Timings())

    keyboard, hand = os.pipe()
    screen = os.open(os.devnull, os.O_WRONLY)
    attachment = Attachment(
        link_again, offset=0, keyboard=keyboard, screen=screen, raw=None, tell=lambda text: None, backoff=Backoff(0.001, 0.01),
        budget_s=PATIENCE_S,
    )  # fmt: skip
    person = threading.Thread(target=attachment.run)
    person.start()
    try:
        os.write(hand, b"one.")
        until(lambda: wire.run(command="cat /tmp/typed")["output"]["text"] == "one.", "the first word is there")
        relay.links[0].hold()
        os.write(hand, b"two.")
        relay.links[0].wait_held(14)  # a frame's head, the place, the word
        relay.links[0].break_off()
        until(lambda: wire.run(command="cat /tmp/typed")["output"]["text"] == "one.two.", "it was sent again")
        relay.links[0].let_go()
        os.write(hand, b"three")
        person.join(PATIENCE_S)
        assert not person.is_alive()
        assert wire.run(command="cat /tmp/typed")["output"]["text"] == "one.two.three"
    finally:
        wire.cancel(eid)
        person.join(PATIENCE_S)
        relay.close()
        for end in (keyboard, hand, screen):
            os.close(end)


def test_a_terminal_outlives_its_server(make_server: MakeServer, sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        wire = Wire(server, sandbox.id, str(sandbox.epoch))
        eid = wire.start(command="PS1='$ ' exec bash --norc --noprofile", tty={}, timeout_s=None)
        with sit(wire, eid, 0) as connection:
            at = told(connection)["offset"]
            at += len(shown(connection, b"$ "))
            assert server.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                at += len(bytes(connection.recv(PATIENCE_S)))
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        server.start()
        with sit(wire, eid, at) as connection:
            assert told(connection) == {"type": "at", "offset": at, "input": None}
            connection.send(b"echo $((6 * 7))\r")
            shown(connection, b"42\r\n")
            server.kill()
            with contextlib.suppress(ConnectionClosed):
                connection.recv(PATIENCE_S)
        server.start()
        wire.type_in(eid, b"exit 3\r", "restart")
        assert wire.over(eid)["outcome"]["code"] == 3


def test_the_stop_is_in_the_log_with_its_code(make_server: MakeServer, sandbox_image: str) -> None:
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        wire = Wire(server, sandbox.id, str(sandbox.epoch))
        eid = wire.start(command=CAT, tty={}, timeout_s=None)
        with sit(wire, eid) as connection:
            told(connection)
            server.stop()
        assert f"terminal closed execution_id={eid} code=1001" in server.log.read_text()


# ------------------------------------------------------------------------------------------- a session's terminal


@pytest.fixture
def session(wire: Wire) -> Iterator[Session]:
    opened = wire.session(tty={"echo": False})
    yield opened
    opened.close()


def test_a_session_keeps_its_terminal_for_the_commands_that_ask_for_it(session: Session) -> None:
    assert session.says("tty -s || echo none") == "none\n"
    assert session.says("tty -s && stty size && x=kept", tty={"rows": 30}) == "30 80\r\n"
    assert session.says("echo $x") == "kept\n"


def test_a_program_in_a_session_is_spoken_with(session: Session) -> None:
    eid = session.start('read -r line; echo "<$line>"; python3 -q', tty={})
    assert session.wire.type_in(eid, b"hello\n", 0).json() == {"offset": 6}
    session.wire.says(eid, b"<hello>")
    session.wire.says(eid, b">>> ")
    session.wire.type_in(eid, b"print(6 * 7)\n", 6)
    session.wire.says(eid, b"42")
    session.wire.type_in(eid, b"import sys; sys.exit(5)\n", 19)
    assert session.wire.over(eid)["outcome"]["code"] == 5
    assert session.says("echo $?") == "5\n"


def test_control_c_costs_the_program_and_not_the_session(session: Session) -> None:
    session.run("x=kept")
    eid = session.start("echo ready; sleep 300", tty={})
    session.wire.says(eid, b"ready")
    session.wire.type_in(eid, b"\x03", 0)
    assert session.wire.over(eid)["outcome"]["code"] == 130
    assert session.says("echo $x") == "kept\n"


def test_what_was_left_unread_is_not_the_next_programs(session: Session) -> None:
    eid = session.start("echo ready; read -r _; sleep 0.2", tty={})
    session.wire.says(eid, b"ready")
    session.wire.type_in(eid, b"first\nleft over\n", 0)
    session.wire.over(eid)
    eid = session.start('read -rt 0.3 line; echo "<$line>"', tty={})
    session.wire.over(eid)
    assert session.wire.output(eid) == b"<>\r\n"


def test_a_session_without_a_terminal_has_none_to_give(wire: Wire) -> None:
    session = wire.session()
    refused = session.post("tty", tty={})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    session.close()


def test_nobody_sits_at_a_session_itself(wire: Wire, session: Session) -> None:
    assert wire.type_in(session.id, b"x", 0).json()["code"] == "wrong_state"
    eid = session.start("echo ready; sleep 0.2", tty={})
    until(lambda: wire.show(eid)["state"] == "ended", "it is over")
