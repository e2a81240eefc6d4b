"""Every way in which a command can end, and what `execute()` makes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from remote_env import Client, Execution, Sandbox
from remote_env.errors import InvalidSpec, SandboxGone
from remote_env.protocol import Outcome, new_id
from tests.engine.conftest import Http, MakeSandbox
from tests.support.outside import docker, processes, runs, until
from tests.support.server import BUSYBOX, SMALL, Server

ALONE = ["/.remote-env/init"]
TINY = 24 << 20  # bytes of memory


def outcome(execution: Execution) -> Outcome:
    assert execution.over and execution.outcome is not None
    return execution.outcome


def begun(execution: Execution) -> None:
    """Wait until the command has written something."""
    until(lambda: execution.refresh().record.output.total_bytes > 0, "the command writes")


@pytest.mark.parametrize("code", [0, 1, 2, 42, 124, 125, 126, 127, 128, 137, 143, 200, 255])
def test_exit_code_is_the_commands_own(shared: Sandbox, code: int) -> None:
    execution = shared.run(f"exit {code}")
    assert outcome(execution) == Outcome(kind="exited", code=code, ran=True)
    assert execution.returncode == code


@pytest.mark.parametrize("name", ["HUP", "INT", "BUS", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "ALRM", "TERM", "SYS"])
def test_signal_that_killed_the_command_is_told(shared: Sandbox, name: str) -> None:
    number = int(signal.Signals[f"SIG{name}"])
    execution = shared.run(f"kill -{name} $$")
    assert outcome(execution) == Outcome(kind="signalled", signal=number, ran=True)
    assert execution.returncode == 128 + number


@pytest.mark.parametrize(
    ("command", "options", "reason", "returncode"),
    [
        (["no-such-program"], {}, "not_found", 127),
        (["/no/such/program"], {}, "not_found", 127),
        (["/etc/passwd/below"], {}, "not_found", 127),
        (["/etc/passwd"], {}, "not_executable", 126),
        (["/etc"], {}, "not_executable", 126),
        ("touch /ran", {"user": "nobody-of-that-name"}, "no_such_user", -1),
        ("touch /ran", {"user": "app:no-such-group"}, "no_such_user", -1),
        ("touch /ran", {"workdir": "/no/such/directory"}, "no_workdir", -1),
        ("touch /ran", {"workdir": "/etc/passwd"}, "no_workdir", -1),
        ("touch /ran", {"workdir": "/root", "user": "app"}, "no_workdir", -1),
        ("touch /ran", {"workdir": "/etc/made", "user": "app", "make_workdir": True}, "no_workdir", -1),
        (["touch", "/ran", *["x" * 100_000] * 30], {}, "too_long", -1),
    ],
)  # fmt: skip
def test_command_that_cannot_start_says_why_and_did_not_run(
    shared: Sandbox, command: str | list[str], options: dict[str, Any], reason: str, returncode: int
) -> None:
    execution = shared.run(command, **options)
    assert (outcome(execution).kind, outcome(execution).reason, outcome(execution).ran) == ("failed_to_start", reason, False)
    assert outcome(execution).errno
    assert execution.returncode == returncode
    assert docker("exec", str(shared.container_id), "sh", "-c", "ls /ran 2>/dev/null || echo no") == "no\n"


def test_command_beyond_the_process_limit_does_not_start(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(pids=16)
    hog = sandbox.start("while :; do sleep 300 & done 2>/dev/null")
    # The shell dies of the first fork that fails; what it started stays.
    hog.wait()
    execution = sandbox.run("touch /ran")
    assert (outcome(execution).kind, outcome(execution).reason, outcome(execution).ran) == ("failed_to_start", "no_process", False)


def test_total_timeout_kills_everything_and_keeps_the_output(sandbox: Sandbox) -> None:
    execution = sandbox.run("echo begun; sleep 300 & sleep 300", timeout_s=0.5, grace_s=0.2)
    assert outcome(execution) == Outcome(kind="timed_out", clock="total", ran=True)
    assert (execution.returncode, execution.text) == (-1, "begun\n")
    assert processes(sandbox) == ALONE


def test_idle_timeout_ends_a_silent_command(sandbox: Sandbox) -> None:
    execution = sandbox.run("echo begun; sleep 300", idle_timeout_s=0.4, grace_s=0.2)
    assert outcome(execution) == Outcome(kind="timed_out", clock="idle", ran=True)
    assert (execution.returncode, execution.text) == (-1, "begun\n")
    assert processes(sandbox) == ALONE


def test_idle_timeout_lets_a_talking_command_be(shared: Sandbox) -> None:
    execution = shared.run("for i in 1 2 3 4 5 6; do echo $i; sleep 0.4; done", idle_timeout_s=2)
    assert outcome(execution) == Outcome(kind="exited", code=0, ran=True)
    assert execution.text == "1\n2\n3\n4\n5\n6\n"


def test_timed_out_command_may_clean_up_within_its_grace(shared: Sandbox) -> None:
    execution = shared.run("trap 'echo cleaned; exit 3' TERM; echo begun; while :; do :; done", timeout_s=0.3, grace_s=10)
    assert outcome(execution) == Outcome(kind="timed_out", clock="total", ran=True)
    assert execution.text == "begun\ncleaned\n"


def test_cancelled_command_is_killed_and_keeps_its_output(sandbox: Sandbox) -> None:
    execution = sandbox.start("trap '' TERM; echo begun; while :; do sleep 300; done", grace_s=0.1)
    begun(execution)
    assert execution.cancel().record.cancelling
    execution.cancel().wait()
    assert outcome(execution) == Outcome(kind="cancelled", ran=True)
    assert (execution.returncode, execution.text) == (-1, "begun\n")
    assert processes(sandbox) == ALONE


def test_cancel_after_the_end_changes_nothing(shared: Sandbox) -> None:
    execution = shared.run("exit 5")
    assert outcome(execution.cancel()) == Outcome(kind="exited", code=5, ran=True)


def test_signal_reaches_the_whole_process_group(shared: Sandbox) -> None:
    child = "trap 'echo child; exit' USR1; echo ready; while :; do :; done"
    execution = shared.start('trap "echo parent" USR1; sh -c "$CHILD" & wait; wait', env={"CHILD": child})
    begun(execution)
    execution.signal(signal.SIGUSR1).wait()
    assert sorted(execution.text.split()) == ["child", "parent", "ready"]


def test_command_over_the_memory_limit_ends_as_oom(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(memory_bytes=TINY)
    execution = sandbox.run("echo begun; exec tail /dev/zero")
    assert (outcome(execution).kind, outcome(execution).signal, outcome(execution).ran) == ("oom", signal.SIGKILL, True)
    assert (execution.returncode, execution.text) == (137, "begun\n")
    assert execution.record.oom_kills > 0
    assert sandbox.run("echo lives").text == "lives\n"


def test_oom_beside_another_command_is_only_suspected(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(memory_bytes=TINY)
    bystander = sandbox.start(["sleep", "300"])
    execution = sandbox.run(["tail", "/dev/zero"])
    assert (outcome(execution).kind, execution.returncode) == ("oom_suspected", 137)
    assert not bystander.refresh().over


def test_command_is_lost_with_its_killed_container(client: Client, sandbox: Sandbox) -> None:
    execution = sandbox.start("echo begun; sleep 300")
    begun(execution)
    docker("kill", str(sandbox.container_id))
    execution.wait()
    assert outcome(execution) == Outcome(kind="lost", reason="sandbox_died", ran=True)
    assert (execution.returncode, execution.text) == (-1, "begun\n")
    until(lambda: sandbox.refresh().record.state == "dead", "the sandbox is told as dead")
    with pytest.raises(SandboxGone):
        sandbox.run("true")


def test_command_is_lost_with_its_removed_container(sandbox: Sandbox) -> None:
    execution = sandbox.start("echo begun; sleep 300")
    begun(execution)
    docker("rm", "-f", str(sandbox.container_id))
    assert outcome(execution.wait()) == Outcome(kind="lost", reason="sandbox_died", ran=True)
    assert execution.text == "begun\n"


def test_restarted_container_is_another_one(sandbox: Sandbox) -> None:
    execution = sandbox.start("echo begun; sleep 300")
    begun(execution)
    docker("restart", "-t", "0", str(sandbox.container_id))
    assert outcome(execution.wait()).kind == "lost"
    until(lambda: sandbox.refresh().record.state == "dead", "the sandbox is told as dead")
    until(lambda: not docker("ps", "-aq", "--filter", f"id={sandbox.container_id}"), "the restarted container is removed")


def test_removal_cancels_what_runs(client: Client) -> None:
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.start("echo begun; sleep 300")
    begun(execution)
    sandbox.remove()
    assert outcome(execution.wait()) == Outcome(kind="cancelled", reason="sandbox_removed", ran=True)
    assert execution.text == "begun\n"


def test_command_that_says_nothing_while_its_sandbox_is_removed_is_lost(client: Client) -> None:
    sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
    execution = sandbox.start("echo begun; sleep 300", grace_s=0)
    begun(execution)
    docker("pause", str(sandbox.container_id))
    sandbox.remove()
    assert outcome(execution.wait()) == Outcome(kind="lost", reason="sandbox_removed", ran=True)
    assert execution.text == "begun\n"


def test_argument_that_no_kernel_takes_is_refused_and_a_long_command_runs(shared: Sandbox) -> None:
    with pytest.raises(InvalidSpec, match=r"argv\[1\]"):
        shared.run(["echo", "x" * 200_000])
    assert shared.run("echo whole #" + "x" * 200_000).text == "whole\n"


def test_init_out_of_reach_for_too_long_is_given_up(make_server: Callable[..., Server]) -> None:
    server = make_server("--unreachable-after", "1s").start()
    with server.client() as client:
        sandbox = client.create_sandbox(BUSYBOX, memory_bytes=SMALL)
        execution = sandbox.start("echo begun; sleep 300")
        begun(execution)
        docker("pause", str(sandbox.container_id))
        server.restart()  # a frozen init does not connect again
        assert outcome(execution.wait()) == Outcome(kind="lost", reason="init_unreachable", ran="unknown")
        assert execution.text == "begun\n"
        assert server.containers() == []


def test_abandoned_id_never_runs(http: Http, sandbox: Sandbox) -> None:
    eid = new_id()
    fence = http("POST", f"/v1/executions/{eid}/abandon", epoch=sandbox.epoch, wait=20, json={"sandbox_id": sandbox.id})
    assert (fence.status_code, fence.json()["state"]) == (200, "abandoned")
    assert (fence.json()["outcome"]["kind"], fence.json()["outcome"]["ran"]) == ("not_run", False)

    late = {"id": eid, "command": "echo late >> /ran"}
    answer = http("POST", f"/v1/sandboxes/{sandbox.id}/executions", epoch=sandbox.epoch, wait=5, json=late)
    assert (answer.status_code, answer.json()["state"]) == (200, "abandoned")
    sandbox.run("echo other >> /ran")
    assert runs(sandbox) == {"other": 1}


def test_abandon_never_overrides_what_is_known(http: Http, sandbox: Sandbox) -> None:
    execution = sandbox.run("exit 3")
    answer = http("POST", f"/v1/executions/{execution.id}/abandon", epoch=sandbox.epoch, json={"sandbox_id": sandbox.id})
    assert (answer.status_code, answer.json()["outcome"]["code"]) == (200, 3)


@pytest.mark.parametrize(
    ("command", "options", "returncode", "ran"),
    [
        ("exit 3", {}, 3, True),
        ("kill -9 $$", {}, 137, True),
        (["no-such-program"], {}, 127, False),
        ("sleep 300", {"timeout_s": 0.2, "grace_s": 0}, -1, True),
        ("true", {"user": "nobody-of-that-name"}, -1, False),
    ],
)
def test_execute_explains_only_what_has_no_exit_code(
    client: Client, shared: Sandbox, command: str | list[str], options: dict[str, Any], returncode: int, ran: bool
) -> None:
    answer = client.execute(shared.id, command, **options)
    assert (answer.returncode, answer.extra["ran"]) == (returncode, ran)
    assert bool(answer.exception_info) == (returncode == -1)
