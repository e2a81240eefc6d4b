"""Sessions and terminals over a network that loses requests, answers and servers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from remote_env import (
    Client,
    InvalidSpec,
    NotRunError,
    Sandbox,
    Session,
    SessionEnded,
    SessionNotOpened,
    Terminal,
)
from remote_env.protocol import Execution, Outcome
from remote_env.session_base import SessionBase
from remote_env.turns import Turns
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


# ----------------------------------------------------------------------------------------------------- sessions


def test_session_and_its_commands_are_executions_of_the_sandbox(server: SessionServer, sandbox: Sandbox) -> None:
    with sandbox.session(workdir="/srv", env={"A": "b"}, user="app") as session:
        assert session.run("echo hi").output() == b"hi\n"
    opening, barrier, command = sent(server)
    assert {key: opening[key] for key in ("opens", "workdir", "env", "user")} == {
        "opens": "session",
        "workdir": "/srv",
        "env": {"A": "b"},
        "user": "app",
    }
    assert (barrier["command"], barrier["session"]) == (":", opening["id"])
    assert (command["command"], command["session"]) == ("echo hi", session.id)
    assert "command" not in opening
    assert server.executions[session.id].record.over
    assert not session.alive


def test_command_whose_answer_is_lost_runs_once(server: SessionServer, session: Session) -> None:
    server.on("POST", POSTED, CUT_AFTER)
    assert session.run("echo once").output() == b"once\n"
    assert server.started["echo once"] == 1


def test_read_is_not_run_again_for_a_shell_may_call_anything_cat(server: SessionServer, session: Session) -> None:
    """`cat` may be a function or an alias here, and `cd` changes what a path means."""
    server.on("POST", POSTED, CUT_BEFORE)
    with pytest.raises(NotRunError):
        session.run("cat /etc/passwd")
    server.on("POST", POSTED, CUT_BEFORE)
    assert session.run("cat /etc/passwd", idempotent=True).returncode == 0


def test_busy_session_is_asked_again_with_the_same_id(server: SessionServer, session: Session) -> None:
    server.on("POST", POSTED, refusal("session_busy"), refusal("session_busy"))
    assert session.run("true").returncode == 0
    assert len({each["id"] for each in sent(server)[-3:]}) == 1


def test_wait_for_another_process_is_told_of_once(server: SessionServer, session: Session, caplog: pytest.LogCaptureFixture) -> None:
    server.on("POST", POSTED, *[refusal("session_busy")] * 5)
    with caplog.at_level(logging.WARNING, "remote_env"):
        assert session.run("true").returncode == 0
    assert len([record for record in caplog.records if "session_busy" in record.getMessage()]) == 1


@threads_only
def test_session_whose_opening_is_interrupted_is_closed(server: SessionServer, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a startup file is sourced: nobody gets the session, so nobody could close it."""

    async def interrupted(*_: object) -> Execution:
        raise KeyboardInterrupt

    monkeypatch.setattr(SessionBase, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sandbox.session(startup=["/etc/profile"])
    (session_id,) = server.sessions
    assert server.executions[session_id].record.over


def test_started_command_is_waited_for_by_the_next(server: SessionServer, session: Session) -> None:
    first = session.start("hang")
    done = threading.Thread(target=lambda: session.run("echo next"))
    done.start()
    server.wait_until(lambda: server.seen("GET", f"/v1/executions/{first.id}$"))
    assert server.started["echo next"] == 0
    server.finish(first.id, Outcome(kind="exited", ran=True, code=0))
    done.join(20)
    assert server.started["echo next"] == 1


def test_exit_is_known_at_once_and_refused_without_a_request(server: SessionServer, session: Session) -> None:
    assert session.run("exit 3").returncode == 3
    assert (session.alive, session.exit_code) == (False, 3)
    posted = len(sent(server))
    with pytest.raises(SessionEnded, match="exited with code 3") as caught:
        session.run("echo late")
    assert (caught.value.exit_code, len(sent(server))) == (3, posted)


def test_session_that_ended_unseen_says_so_with_its_outcome(server: SessionServer, session: Session) -> None:
    server.end_session(session.id, Outcome(kind="signalled", ran=True, signal=9))
    with pytest.raises(SessionEnded, match="died of signal 9") as caught:
        session.run("echo late")
    assert caught.value.outcome is not None and caught.value.outcome.signal == 9
    assert server.started["echo late"] == 0
    assert session.sandbox.gone is None


def test_session_that_ended_while_it_was_busy_is_ruled_out_by_a_fence(server: SessionServer, session: Session) -> None:
    """A proxy may have made a second copy of the one that was answered busy."""
    server.on("POST", POSTED, refusal("session_busy"))
    server.end_session(session.id, Outcome(kind="exited", ran=True, code=0))
    with pytest.raises(SessionEnded):
        session.run("echo late")
    [fence] = server.seen("POST", r"/abandon$")
    assert server.executions[fence.path.split("/")[3]].record.state == "abandoned"


def test_startup_files_are_sourced_in_order_and_once(server: SessionServer, sandbox: Sandbox) -> None:
    for _ in range(2):
        assert sandbox.session(startup=["/etc/one", "/srv/it's"], id="session-of-ours").alive
    commands = [each.get("command") for each in sent(server)][:4]
    assert commands[1] == ":"
    assert str(commands[2]).startswith(". /etc/one\n") and str(commands[3]).startswith(". '/srv/it'\"'\"'s'\n")
    assert max(server.started.values()) == 1


def test_missing_startup_file_is_told_in_the_shells_words(server: SessionServer, sandbox: Sandbox) -> None:
    with pytest.raises(SessionNotOpened, match=r"/missing could not be read.*No such file") as caught:
        sandbox.session(startup=["/missing"])
    assert "No such file" in caught.value.output
    assert all(server.executions[each].record.over for each in server.sessions)


def test_shell_that_does_not_start_opens_no_session(server: SessionServer, sandbox: Sandbox) -> None:
    def fail() -> None:
        for each in server.sessions:
            server.end_session(each, Outcome(kind="failed_to_start", ran=False, reason="no_such_user"))

    server.on("POST", POSTED, Fault(arrives=True), Fault(arrives=True, before=fail, change=lambda body: body))
    with pytest.raises(SessionNotOpened, match="no_such_user"):
        sandbox.session(user="nobody-here")


def test_opening_that_gets_lost_is_done_again_under_another_id(server: SessionServer, sandbox: Sandbox) -> None:
    server.on("POST", POSTED, CUT_BEFORE)
    session = sandbox.session()
    assert server.started["opens"] == 1
    assert session.id != sent(server)[0]["id"]


@pytest.mark.parametrize("command", ["nul \0 byte", "", ["ls"]])
def test_what_is_no_command_line_is_refused_here(server: SessionServer, session: Session, command: str) -> None:
    posted = len(sent(server))
    with pytest.raises(InvalidSpec):
        session.run(command)
    assert len(sent(server)) == posted


def test_terminal_is_for_sessions_that_have_one(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidSpec, match="tty=True"):
        sandbox.session().run("repl", expect=">>> ")


def test_interrupt_reaches_the_shell_of_a_command_that_another_thread_waits_for(server: SessionServer, session: Session) -> None:
    done = threading.Thread(target=lambda: session.run("hang"))
    done.start()
    server.wait_until(lambda: server.started["hang"])
    session.interrupt()
    assert server.seen("POST", f"/v1/executions/{session.id}/signal$")[0].json() == {"signal": 2}
    server.finish(server.sessions[session.id] or "", Outcome(kind="exited", ran=True, code=130))
    done.join(20)
    assert not done.is_alive()


@threads_only
def test_threads_take_turns_in_the_order_in_which_they_came() -> None:
    turns, order, threads = Turns(), list[int](), list[threading.Thread]()

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                threading.Event().wait(0.001)
    for thread in threads:
        thread.join(20)
    assert order == list(range(8))
