"""Programs that are talked with, over a network that loses requests, answers and servers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from remote_env import (
    END,
    Client,
    ExpectEnded,
    ExpectTimeout,
    InputNotTaken,
    InputUnknown,
    InvalidSpec,
    OutcomeUnknownError,
    Sandbox,
    Session,
    Terminal,
)
from remote_env.protocol import InputAnswer, Outcome
from tests.unit.client.conftest import FAST
from tests.unit.client.faces import threads_only
from tests.unit.client.fakeserver import CUT_AFTER, CUT_BEFORE, TOKEN, Fault, refusal
from tests.unit.client.sessionserver import SessionServer

BOTH_FACES = True
POSTED = r"/executions$"
INPUT = r"/input$"


@pytest.fixture
def server() -> Iterator[SessionServer]:
    with SessionServer() as made:
        yield made


@pytest.fixture
def sandbox(server: SessionServer) -> Iterator[Sandbox]:
    with Client(server.url, TOKEN, timings=FAST) as client:
        yield client.create_sandbox("image")


@pytest.fixture
def session(sandbox: Sandbox) -> Session:
    return sandbox.session(tty=True)


@pytest.fixture
def repl(sandbox: Sandbox) -> Iterator[Terminal]:
    with sandbox.terminal("repl") as made:
        made.expect(">>> ")
        yield made


def sent(server: SessionServer) -> list[dict[str, object]]:
    return [request.json() for request in server.seen("POST", POSTED)]


def test_program_is_talked_with_until_it_ends(server: SessionServer, session: Session) -> None:
    prompt = session.run("repl", expect=[">>> "])
    assert (prompt.output, prompt.match, prompt.pattern) == ("", ">>> ", 0)
    answer = session.send("one\n", expect=["never", r"said (\w+)\r\n"])
    assert answer is not None
    assert (answer.pattern, answer.groups) == (1, ("one",))
    assert session.expect(">>> ").output == ""
    last = session.send("quit\n", expect=[END, ">>> "])
    assert last is not None
    assert (last.output, last.execution.returncode) == ("bye\r\n", 0)
    assert session.run("echo after").output() == b"after\n"
    assert sent(server)[-2]["timeout_s"] is None


def test_expect_that_times_out_leaves_program_and_text_where_they_were(repl: Terminal) -> None:
    repl.send("a\n")
    with pytest.raises(ExpectTimeout) as caught:
        repl.expect("no such thing", timeout_s=0.2)
    assert "said a" in caught.value.output
    assert repl.expect(">>> ").output == "said a\r\n"
    assert not repl.over


def test_end_of_the_program_is_told_apart_from_a_timeout(repl: Terminal) -> None:
    repl.send("quit\n")
    with pytest.raises(ExpectEnded, match="exited with code 0") as caught:
        repl.expect(">>> ")
    assert caught.value.output == "bye\r\n"
    assert repl.read() == "bye\r\n"
    assert repl.read() == ""
    with pytest.raises(ExpectEnded):
        repl.send("is anybody there\n")


def test_command_that_comes_while_a_program_is_talked_with_is_refused(
    server: SessionServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remote_env.session_base._LEAVING_S", 0.1)
    session.run("repl", expect=">>> ")
    with pytest.raises(InvalidSpec, match="talked with"):
        session.run("echo too early")
    assert server.started["echo too early"] == 0


@pytest.mark.parametrize("option", [{"check": True}, {"idempotent": True}, {"on_undelivered": "redeliver"}, {"on_output": print}])
def test_what_speaks_of_an_end_is_refused_where_none_is_waited_for(
    server: SessionServer, session: Session, option: dict[str, object]
) -> None:
    posted = len(sent(server))
    with pytest.raises(InvalidSpec, match=f"{next(iter(option))} cannot be combined with expect"):
        session.run("repl", expect=">>> ", **option)  # type: ignore[call-overload]
    assert len(sent(server)) == posted


def test_input_whose_answer_is_lost_is_typed_once(server: SessionServer, repl: Terminal) -> None:
    server.on("POST", INPUT, CUT_AFTER, CUT_BEFORE)
    repl.send("one\n")
    repl.send("two\n")
    assert bytes(server.typed[repl.id].data) == b"one\ntwo\n"
    assert [request.headers["x-remote-env-offset"] for request in server.seen("POST", INPUT)] == ["0", "0", "0", "4"]


def test_input_goes_on_after_the_server_was_started_again(server: SessionServer, repl: Terminal) -> None:
    repl.send("one\n")
    server.restart()
    repl.send("two\n")
    repl.send("three\n")
    assert bytes(server.typed[repl.id].data) == b"one\ntwo\nthree\n"


def test_input_on_its_way_to_a_server_that_was_started_again_is_unknown_and_not_typed_twice(server: SessionServer, repl: Terminal) -> None:
    server.on("POST", INPUT, CUT_AFTER, Fault(before=server.restart))
    with pytest.raises(InputUnknown):
        repl.send("rm x\n")
    assert bytes(server.typed[repl.id].data) == b"rm x\n"
    repl.send("ls\n")
    assert bytes(server.typed[repl.id].data) == b"rm x\nls\n"


def test_input_on_its_way_to_a_server_that_is_back_before_its_program_is_not_typed_twice(server: SessionServer, repl: Terminal) -> None:
    server.on("POST", INPUT, CUT_AFTER, replace(refusal("wrong_state"), before=server.restart))
    with pytest.raises(InputUnknown):
        repl.send("rm x\n")
    assert bytes(server.typed[repl.id].data) == b"rm x\n"


def test_input_that_was_taken_before_its_program_was_out_of_reach_is_typed_once(server: SessionServer, repl: Terminal) -> None:
    server.on("POST", INPUT, CUT_AFTER, refusal("wrong_state"))
    repl.send("one\n")
    repl.send("two\n")
    assert bytes(server.typed[repl.id].data) == b"one\ntwo\n"


def test_input_of_which_nothing_more_was_heard_does_not_swallow_the_next(server: SessionServer) -> None:
    """It was taken, so that what comes next stands behind it."""
    with Client(server.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.3)) as client:
        terminal = client.create_sandbox("image").terminal("mute")
        server.on("POST", INPUT, CUT_AFTER, *[CUT_BEFORE] * 10_000)
        with pytest.raises(OutcomeUnknownError):
            terminal.send("one\n")
        server.mend()
        terminal.send("two\n")
    assert bytes(server.typed[terminal.id].data) == b"one\ntwo\n"


def test_server_that_says_yes_and_takes_nothing_is_given_up_on(server: SessionServer) -> None:
    def none(body: bytes) -> bytes:
        return InputAnswer(offset=0).model_dump_json().encode()

    with Client(server.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.3)) as client:
        terminal = client.create_sandbox("image").terminal("mute")
        server.on("POST", INPUT, *[Fault(change=none)] * 10_000)
        with pytest.raises(InputNotTaken, match="took none of it"):
            terminal.send("one\n")
    assert len(server.seen("POST", INPUT)) < 100  # it was not asked without a pause


def test_program_that_does_not_read_is_told_with_how_much_it_took(server: SessionServer, sandbox: Sandbox) -> None:
    terminal = sandbox.terminal("mute")
    server.room = 10
    with pytest.raises(InputNotTaken) as caught:
        terminal.send("0123456789abcdef")
    assert caught.value.taken == 10
    server.room = None
    terminal.send("abcdef")
    assert bytes(server.typed[terminal.id].data) == b"0123456789abcdef"
    terminal.close()


def test_input_waits_for_a_program_that_has_not_started(server: SessionServer, repl: Terminal) -> None:
    server.on("POST", INPUT, refusal("wrong_state"), Fault(), refusal("wrong_state"))
    repl.send("one\n")
    assert bytes(server.typed[repl.id].data) == b"one\n"


def test_input_for_a_program_that_ends_before_it_takes_any_says_so(server: SessionServer, repl: Terminal) -> None:
    def end() -> None:
        server.finish(repl.id, Outcome(kind="exited", ran=True, code=3))

    server.on("POST", INPUT, refusal("wrong_state"), refusal("wrong_state"), Fault(before=end))
    with pytest.raises(ExpectEnded, match="code 3"):
        repl.send("one\n")


def test_terminal_that_never_takes_anything_is_given_up_on(server: SessionServer) -> None:
    with Client(server.url, TOKEN, timings=replace(FAST, reconnect_budget_s=0.3)) as client:
        terminal = client.create_sandbox("image").terminal("mute")
        server.on("POST", INPUT, *[refusal("wrong_state")] * 10_000)
        with pytest.raises(InputNotTaken, match="0 bytes of this input were typed") as caught:
            terminal.send("one\n")
    assert caught.value.taken == 0
    assert len(server.seen("POST", INPUT)) < 100  # it was not asked without a pause


def test_count_that_is_another_than_ours_is_not_typed_on_from(server: SessionServer, repl: Terminal) -> None:
    """Somebody else has begun to count anew."""
    repl.send("one\n")
    server.typed[repl.id].count = 1
    with pytest.raises(InputUnknown, match="somebody else"):
        repl.send("two\n")
    assert bytes(server.typed[repl.id].data) == b"one\n"


def test_long_input_goes_in_pieces(server: SessionServer, sandbox: Sandbox) -> None:
    text = "0123456789abcdef" * (5 << 15)
    with sandbox.terminal("mute") as terminal:
        terminal.send(text)
        assert server.typed[terminal.id].data.decode() == text
    assert len(server.seen("POST", INPUT)) == 3


def test_attached_program_is_typed_to_from_where_the_last_one_stopped(server: SessionServer, sandbox: Sandbox, repl: Terminal) -> None:
    repl.send("one\n")
    other = sandbox.attach(repl.id, from_="start")
    other.send_line("two", expect="said two")
    assert bytes(server.typed[repl.id].data) == b"one\ntwo\n"


def test_attached_program_is_heard_from_the_moment_of_attaching(server: SessionServer, sandbox: Sandbox, repl: Terminal) -> None:
    """What it says to the first line, before anybody looks, is heard; what it has said before is not."""
    kept = server.executions[repl.id]
    kept.record = kept.record.model_copy(update={"output": kept.record.output.model_copy(update={"total_bytes": len(kept.output)})})
    other = sandbox.attach(repl.id)
    other.send_line("two")
    server.wait_until(lambda: b"said two" in kept.output)
    assert other.expect("two\r\n").output == "said "


def test_what_has_no_terminal_is_not_attached_to(sandbox: Sandbox, session: Session) -> None:
    for execution_id in (sandbox.run("true").id, session.id):
        with pytest.raises(InvalidSpec, match="terminal"):
            sandbox.attach(execution_id)


FORKED = """
import os, sys
from remote_env import Client, MisuseError
client = Client(sys.argv[1], sys.argv[2])
sandbox = client.create_sandbox("image")
terminal = sandbox.terminal("repl")
terminal.expect(">>> ")
child = os.fork()
if child == 0:
    try:
        terminal.expect("never", timeout_s=None)
    except MisuseError:
        own = sandbox.attach(terminal.id)
        own.send_line("child", expect="said child")
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
terminal.expect("said child")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@threads_only
def test_forked_child_is_told_to_attach_and_does_not_wait_for_ever(server: SessionServer) -> None:
    subprocess.run([sys.executable, "-c", FORKED, server.url, TOKEN], check=True, timeout=60)


def test_resize_and_interrupt_go_to_the_program(server: SessionServer, repl: Terminal) -> None:
    repl.resize(50, 132)
    repl.interrupt()
    assert server.sizes == [(repl.id, 50, 132)]
    assert bytes(server.typed[repl.id].data) == b"\x03"
    with pytest.raises(InvalidSpec):
        repl.resize(0, 80)


def test_output_that_may_not_be_replaced_is_an_error_and_no_endless_wait(server: SessionServer, sandbox: Sandbox) -> None:
    with sandbox.terminal("repl", errors="strict") as terminal:
        terminal.expect(">>> ")
        server.write(terminal.id, b"\xff and more\r\n")
        with pytest.raises(UnicodeDecodeError):
            terminal.expect("never", timeout_s=None)
