"""Signals, pipes and stdin: `run` and `exec` as processes of their own."""

from __future__ import annotations

import signal
import threading

import pytest

from tests.unit.cli.conftest import Spawn
from tests.unit.client.fakeserver import FakeServer, Fault


def begun(fake: FakeServer) -> str:
    """The id of the command that hangs, once it has started."""
    fake.wait_until(lambda: fake.started["hang"])
    [execution_id] = fake.executions
    return execution_id


def held_until(release: threading.Event) -> Fault:
    """A request that arrives only then."""

    def wait() -> None:
        assert release.wait(60)

    return Fault(arrives=True, before=wait)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_first_signal_cancels_the_command_and_removes_the_sandbox(fake: FakeServer, spawn: Spawn, number: int, code: int) -> None:
    process = spawn("run", "image", "hang")
    execution_id = begun(fake)
    fake.write(execution_id, b"so far\n")
    assert process.stdout is not None and process.stdout.readline() == b"so far\n"  # now it waits for more
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    outcome = fake.executions[execution_id].record.outcome
    assert (process.returncode, outcome and outcome.kind) == (code, "cancelled")
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]
    assert b"cancelled" in err and b"Traceback" not in err


def test_second_ctrl_c_leaves_without_waiting(fake: FakeServer, spawn: Spawn) -> None:
    release = threading.Event()
    fake.on("POST", r"/cancel$", held_until(release))
    process = spawn("exec", _sandbox(fake, spawn), "hang")
    execution_id = begun(fake)
    fake.write(execution_id, b"so far\n")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stderr.readline()  # it says that it cancels
    fake.wait_until(lambda: fake.seen("POST", r"/cancel$"))
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=60) == 130
        assert not fake.executions[execution_id].record.over
        assert execution_id.encode() in process.stderr.read()
    finally:
        release.set()


def test_ctrl_c_while_the_sandbox_is_made_leaves_none_behind(fake: FakeServer, spawn: Spawn) -> None:
    release = threading.Event()
    fake.on("POST", r"^/v1/sandboxes$", held_until(release))
    process = spawn("run", "image", "true")
    fake.wait_until(lambda: fake.seen("POST", r"^/v1/sandboxes$"))
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=60) == 130
    finally:
        release.set()
    [request] = fake.seen("POST", r"^/v1/sandboxes$")
    assert request.json()["id"] in fake.tombstones  # a late copy makes none either
    assert fake.started == {}


def test_reader_that_goes_away_ends_the_command(fake: FakeServer, spawn: Spawn) -> None:
    process = spawn("run", "image", "hang")
    execution_id = begun(fake)
    fake.write(execution_id, b"first\n")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    fake.write(execution_id, b"second\n")
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    outcome = fake.executions[execution_id].record.outcome
    assert outcome is not None and outcome.kind == "cancelled"
    assert [sandbox.state for sandbox in fake.sandboxes.values()] == ["removed"]


def test_stdin_is_passed_on_only_when_asked_for(fake: FakeServer, spawn: Spawn) -> None:
    for words in (["run", "image", "true"], ["run", "-i", "image", "true"]):
        process = spawn(*words)
        process.communicate(b"\xff\x00in", timeout=60)
        assert process.returncode == 0
    without, with_stdin = (request.json() for request in fake.seen("POST", r"/executions$"))
    assert "stdin_base64" not in without
    assert with_stdin["stdin_base64"] == "/wBpbg=="


def _sandbox(fake: FakeServer, spawn: Spawn) -> str:
    out, _ = spawn("create", "image").communicate(timeout=60)
    return str(out.decode().strip())
