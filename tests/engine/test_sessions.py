"""Sessions on real shells, over plain HTTP: what is kept, whose a byte is, what a crash costs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from remote_env import Sandbox
from remote_env.protocol import new_id
from tests.support.follower import Follower
from tests.support.outside import docker, runs, until
from tests.support.server import SANDBOX, SMALL, Server
from tests.support.sessions import Session, Wire

# Each with the pass that is the second command's: the session itself is accepted and started, too, and does not end.
STEPS = (
    "before_accept_commit:kill@3", "after_accept_commit:kill@3", "after_send:kill@3", "after_started:kill@3",
    "before_output_taken:kill@2", "after_output_taken:kill@2", "after_final_commit:kill@2", "after_ack:kill@2",
)  # fmt: skip


def wire_of(server: Server, sandbox: Sandbox) -> Wire:
    assert sandbox.epoch is not None
    return Wire(server, sandbox.id, sandbox.epoch)


@pytest.fixture
def wire(server: Server, debian: Sandbox) -> Wire:
    return wire_of(server, debian)


@pytest.fixture
def session(wire: Wire) -> Iterator[Session]:
    opened = wire.session()
    yield opened
    opened.close()


def outcome(found: dict[str, Any]) -> tuple[str, Any]:
    return found["outcome"]["kind"], found["outcome"]["code"]


# ---------------------------------------------------------------------------------------------------- what is kept


def test_a_session_keeps_what_a_shell_keeps(session: Session) -> None:
    session.run("cd /usr; x=5; f() { echo \"f $1\"; }; alias hello='echo aliased'; set -o noglob")
    assert session.says("pwd; echo $x; f 1; hello; echo *") == "/usr\n5\nf 1\naliased\n*\n"


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 1), ("(exit 7)", 7), ("no-such-program", 127), ("/etc/passwd", 126)])
def test_a_commands_code_is_the_shells_and_so_is_the_next_ones_question(session: Session, command: str, code: int) -> None:
    assert outcome(session.run(command)) == ("exited", code)
    assert session.says("echo $?") == f"{code}\n"


def test_a_job_goes_on_between_commands_and_what_it_says_is_the_sessions(session: Session) -> None:
    pid = session.says("(sleep 0.2; echo later; sleep 300) & echo $!").strip()
    assert b"later\n" in session.wire.says(session.id, b"later")
    assert session.says(f"kill -0 {pid} && echo alive; kill {pid}").startswith("alive\n")


def test_output_is_a_commands_own_and_exact(session: Session) -> None:
    assert session.says("printf 'a\\r\\n\\tb'; printf c >&2") == "a\r\n\tbc"
    assert session.says("cat") == ""  # its stdin is empty
    found = session.run("head -c 1000000 /dev/zero | tr '\\0' x; printf end")
    assert found["output"]["total_bytes"] == 1_000_003
    assert session.wire.output(found["id"]) == b"x" * 1_000_000 + b"end"


def test_two_outputs_stay_apart(wire: Wire) -> None:
    split = wire.session(streams="split")
    found = split.run("echo out; echo err >&2")
    assert (found["streams"], found["output"]["text"], found["stderr"]["text"]) == ("split", "out\n", "err\n")
    split.close()


def test_a_command_may_be_a_megabyte_long_and_in_any_script(session: Session) -> None:
    assert session.says(f"x={'é' * 500_000}; echo ${{#x}}; echo 'naïve ☃'") == "500000\nnaïve ☃\n"
    refused = session.post("a\0b")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")


def test_only_so_much_of_a_commands_output_is_kept(session: Session) -> None:
    found = session.run("seq 100000", output_limit_bytes=1000)
    assert (found["output"]["kept_bytes"], found["output"]["truncated"], found["output"]["total_bytes"]) == (1000, "limit", 588_895)


def test_a_command_without_a_session_may_be_as_long_and_one_argument_may_not(wire: Wire) -> None:
    found = wire.run(command=f"x={'y' * 1_000_000}; echo ${{#x}} $0; exit 3")
    assert (outcome(found), found["output"]["text"]) == (("exited", 3), "1000000 bash\n")
    refused = wire.post(argv=["echo", "x" * (128 << 10)]).json()
    assert (refused["code"], refused["accepted"]) == ("invalid", False)
    assert "argv[1]" in refused["detail"]


# --------------------------------------------------------------------------------------------- timeouts and cancel


@pytest.mark.parametrize("command", ["echo begun; sleep 300; echo never", "echo begun; while :; do :; done"])
def test_a_command_that_takes_too_long_is_interrupted_and_the_session_lives(session: Session, command: str) -> None:
    session.run("x=kept")
    found = session.run(command, timeout_s=0.3, grace_s=0.5)
    assert (outcome(found), found["outcome"]["clock"], found["session_over"]) == (("timed_out", None), "total", False)
    assert found["output"]["text"].startswith("begun\n")
    assert "never" not in found["output"]["text"]
    assert session.says("echo $x") == "kept\n"


def test_what_ignores_an_interrupt_is_killed_and_older_jobs_are_not(session: Session) -> None:
    job = session.says("sleep 300 & echo $!").strip()
    found = session.run("bash -c 'trap \"\" INT TERM; echo begun; while :; do sleep 1; done'", timeout_s=0.3, grace_s=0.2)
    assert outcome(found) == ("timed_out", None)
    assert session.says(f"kill -0 {job} && echo alive; kill {job}").startswith("alive")


def test_a_silent_command_is_ended_by_the_clock_of_silence(session: Session) -> None:
    found = session.run("echo begun; sleep 300", idle_timeout_s=0.3, grace_s=0.5)
    assert (found["outcome"]["kind"], found["outcome"]["clock"]) == ("timed_out", "idle")


def test_a_cancelled_command_leaves_the_session(session: Session) -> None:
    eid = session.start("x=1; sleep 300")
    until(lambda: session.wire.show(eid)["state"] == "running", "it runs")
    session.wire.cancel(eid)
    found = session.wire.over(eid)
    assert (found["outcome"]["kind"], found["outcome"]["reason"], found["session_over"]) == ("cancelled", None, False)
    assert session.says("echo $x") == "1\n"


def test_a_session_that_is_closed_takes_its_command_along(wire: Wire) -> None:
    session = wire.session()
    eid = session.start("echo begun; sleep 300")
    wire.says(eid, b"begun")
    assert outcome(session.close()) == ("cancelled", None)
    found = wire.over(eid)
    assert (found["outcome"]["kind"], found["outcome"]["reason"], found["output"]["text"]) == ("cancelled", "session_closed", "begun\n")


# -------------------------------------------------------------------------------------------------- a session's end


@pytest.mark.parametrize(
    ("command", "kind", "code", "signal"),
    [("exit 3", "exited", 3, None), ("exec sh -c 'exit 4'", "exited", 4, None), ("set -e; false", "exited", 1, None),
     ("kill -9 $$", "signalled", None, 9)],
)  # fmt: skip
def test_a_command_that_ends_its_shell_has_the_shells_end(
    wire: Wire, command: str, kind: str, code: int | None, signal: int | None
) -> None:
    session = wire.session()
    found = session.run(f"echo said; {command}")
    ended = wire.over(session.id)
    for each in (found, ended):
        assert (each["outcome"]["kind"], each["outcome"]["code"], each["outcome"]["signal"]) == (kind, code, signal)
    assert (found["session_over"], found["output"]["text"]) == (True, "said\n")
    refused = session.post("true").json()
    assert (refused["code"], refused["accepted"], refused["retryable"]) == ("session_ended", False, False)
    assert ("exited with code" if code is not None else "died of signal") in refused["detail"]


def test_one_command_at_a_time_and_the_next_when_it_is_over(session: Session) -> None:
    eid = session.start("sleep 0.3")
    refused = session.post("true").json()
    assert (refused["code"], refused["accepted"], refused["retryable"], refused["retry_after_s"]) == ("session_busy", False, True, 0.05)
    assert session.says("echo next") == "next\n"
    assert outcome(session.wire.show(eid)) == ("exited", 0)


def test_a_session_belongs_to_its_sandbox(server: Server, session: Session, shared: Sandbox) -> None:
    refused = wire_of(server, shared).post(session=session.id, command="true").json()
    assert refused["code"] == "session_ended"
    assert "unknown in this sandbox" in refused["detail"]


def test_sessions_can_be_listed(session: Session) -> None:
    session.run("true")
    listed = session.wire("GET", f"/v1/executions?sandbox_id={session.wire.sandbox_id}&opens=session&state=running").json()["executions"]
    assert [each["id"] for each in listed] == [session.id]
    assert session.wire("GET", "/v1/executions?opens=window").status_code == 422


def test_a_sandbox_that_is_removed_ends_its_sessions(server: Server, client: Any, sandbox_image: str) -> None:
    sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
    wire = wire_of(server, sandbox)
    session = wire.session()
    eid = session.start("echo begun; sleep 300", grace_s=0.1)
    wire.says(eid, b"begun")
    sandbox.remove()
    for each in (session.id, eid):
        found = wire.over(each)
        assert (found["outcome"]["kind"], found["outcome"]["reason"]) == ("cancelled", "sandbox_removed")


# ---------------------------------------------------------------------------------------------- at most once, exact


def test_a_command_that_is_sent_again_is_answered_and_not_run_again(session: Session) -> None:
    eid = new_id()
    texts = {session.post("n=$((n + 1)); echo $n", id=eid, wait=20).json()["output"]["text"] for _ in range(3)}
    assert texts == {"1\n"}
    assert session.post("echo other", id=eid).json()["code"] == "id_conflict"


def test_a_sessions_command_can_be_followed_as_it_runs(server: Server, session: Session) -> None:
    eid = session.start("for i in 1 2 3; do echo $i; sleep 0.05; done")
    events = list(Follower(server.port, server.token, eid, session.wire.epoch))
    assert [events[0].name, events[-1].name] == ["accepted", "end"]
    assert b"".join(event.bytes for event in events if event.name == "output") == b"1\n2\n3\n"


def test_twenty_sessions_at_once_are_each_serial_and_mix_nothing(wire: Wire) -> None:
    wrong: list[Any] = []

    def one(number: int) -> None:
        session = wire.session()
        session.run(f"me={number}; count=0")
        for turn in range(1, 6):
            said = session.says(f"count=$((count + 1)); echo $me {turn} $count")
            if said != f"{number} {turn} {turn}\n":
                wrong.append((number, turn, said))
        if session.close()["output"]["text"]:
            wrong.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


MakeServer = Callable[..., Server]


@pytest.fixture
def hurt(make_server: MakeServer, sandbox_image: str) -> Iterator[tuple[Server, Sandbox, Wire]]:
    """A server of one's own and a sandbox on it."""
    server = make_server().start()
    with server.client() as client:
        sandbox = client.create_sandbox(SANDBOX, memory_bytes=SMALL)
        yield server, sandbox, wire_of(server, sandbox)


def test_a_server_killed_in_the_middle_of_a_command_loses_nothing_and_the_session_goes_on(hurt: tuple[Server, Sandbox, Wire]) -> None:
    server, _, wire = hurt
    session = wire.session()
    session.run("x=kept; cd /usr")
    eid = session.start("for i in $(seq 2000); do echo $i; [ $((i % 100)) = 0 ] && sleep 0.02; done; false")
    wire.says(eid, b"100\n")
    for _ in range(2):
        server.restart()
    found = wire.over(eid)
    assert outcome(found) == ("exited", 1)
    assert wire.output(eid) == b"".join(b"%d\n" % number for number in range(1, 2001))
    assert session.says("echo $? $x; pwd") == "1 kept\n/usr\n"
    assert wire.output(session.id) == b""


def test_a_command_and_its_shell_that_end_while_no_server_is_there_have_their_ends(hurt: tuple[Server, Sandbox, Wire]) -> None:
    server, sandbox, wire = hurt
    session = wire.session()
    eid = session.start("echo begun; while [ ! -e /go ]; do sleep 0.02; done; echo ended > /ran; echo last words; exit 5")
    wire.says(eid, b"begun")
    server.kill()
    docker("exec", str(sandbox.container_id), "touch", "/go")
    until(lambda: runs(sandbox)["ended"] == 1, "it ended")
    server.start()
    found = wire.over(eid)
    assert (outcome(found), found["output"]["text"], found["session_over"]) == (("exited", 5), "begun\nlast words\n", True)
    assert outcome(wire.over(session.id)) == ("exited", 5)


@pytest.mark.parametrize("step", STEPS)
def test_a_server_killed_at_any_step_of_a_sessions_command_runs_it_once(hurt: tuple[Server, Sandbox, Wire], step: str) -> None:
    """The POST whose answer the crash takes is sent again, as a proxy might."""
    server, sandbox, wire = hurt
    server.kill()
    server.start(step)
    session = wire.session()
    assert session.says("x=kept; echo first >> /ran; echo first") == "first\n"
    eid = new_id()
    command = "echo second >> /ran; printf said; sleep 0.05; printf ' all'"
    with contextlib.suppress(requests.ConnectionError):  # the answer may come just before the crash
        session.post(command, id=eid, wait=20)
    assert server.process is not None
    assert server.process.wait(30) == -9
    server.start()
    found = session.run(command, id=eid)
    assert (outcome(found), found["output"]["text"]) == (("exited", 0), "said all")
    assert session.says("echo $x") == "kept\n"
    assert runs(sandbox) == {"first": 1, "second": 1}
    assert wire.output(session.id) == b""
