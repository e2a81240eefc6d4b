"""What a command started ends with it when it is killed, and lives on when it simply ends. Counted by the engine."""

from __future__ import annotations

import os

import pytest

from remote_env import Execution, Sandbox
from remote_env.protocol import Outcome
from tests.engine.conftest import MakeSandbox
from tests.support.outside import docker, processes, until
from tests.support.server import SMALL

ALONE = ["/.remote-env/init"]
LOOP = "while :; do sleep 0.01; done"
BOMB = """
import os, signal
while True:
    try:
        if os.fork() == 0:
            {escape}
    except OSError:
        pass
"""


def host_pid(sandbox: Sandbox, program: str) -> int:
    """The host's pid of the one process with this command line."""
    lines = docker("top", str(sandbox.container_id), "-eo", "pid,args").splitlines()[1:]
    (pid,) = [int(pid) for pid, args in (line.split(maxsplit=1) for line in lines) if args == program]
    return pid


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def run(sandbox: Sandbox, *programs: str) -> bool:
    """Whether each of the programs runs: is, or ends, a command line."""
    lines = processes(sandbox)
    return all(any(line.endswith(program) for line in lines) for program in programs)


def started(sandbox: Sandbox, command: str | list[str], *programs: str, **options: object) -> Execution:
    """Start a command; return when each of the programs runs."""
    execution = sandbox.start(command, **options)
    until(lambda: run(sandbox, *programs), f"{programs} run")
    return execution


@pytest.mark.parametrize(
    "descendant",
    [
        "sleep 400 &",
        "setsid sleep 400 &",
        "(sleep 400 &)",
        "(setsid sh -c '(sleep 400 &)' &)",
        "env -i /bin/sleep 400 &",
        "su app -c 'sleep 400' &",
        "su app -c 'setsid sleep 400 &'",
        "(trap '' TERM HUP INT; sleep 400) &",
        "sh -c 'sh -c \"sh -c \\\"sleep 400 & wait\\\" & wait\" & wait' &",
    ],
    ids=[
        "child", "setsid", "double fork", "daemon", "empty environment", "other user", "daemon of another user",
        "ignores TERM", "great-grandchild",
    ],
)  # fmt: skip
def test_killing_reaches_every_descendant(shared: Sandbox, descendant: str) -> None:
    execution = started(shared, f"{descendant}\nexec sleep 300", "sleep 300", "sleep 400", grace_s=0.1)
    execution.cancel().wait()
    assert processes(shared) == ALONE


@pytest.mark.parametrize("stopper", ["sh", "setsid sh"])
def test_killing_reaches_a_stopped_descendant(sandbox: Sandbox, stopper: str) -> None:
    execution = started(sandbox, f"{stopper} -c 'kill -STOP $$; sleep 400' &\nexec sleep 300", "sleep 300", grace_s=0.1)
    until(lambda: "T" in docker("top", str(sandbox.container_id), "-eo", "pid,stat").replace("STAT", ""), "it is stopped")
    execution.cancel().wait()
    assert processes(sandbox) == ALONE


def test_timeout_reaches_every_descendant(sandbox: Sandbox) -> None:
    execution = sandbox.run("setsid sh -c 'trap \"\" TERM; sleep 400; sleep 400' & sleep 300", timeout_s=0.5, grace_s=0.1)
    assert execution.outcome is not None and execution.outcome.kind == "timed_out"
    assert processes(sandbox) == ALONE


def test_killing_one_command_leaves_the_others_alone(sandbox: Sandbox) -> None:
    bystander = started(sandbox, "setsid sleep 400 & exec sleep 401", "sleep 400", "sleep 401")
    started(sandbox, "setsid sleep 300 & exec sleep 301", "sleep 300", "sleep 301", grace_s=0).cancel().wait()
    # The bystander's runner is a process of the init's program.
    assert sorted(processes(sandbox)) == [*ALONE, *ALONE, "sleep 400", "sleep 401"]
    assert not bystander.refresh().over


@pytest.mark.parametrize("escape", ["pass", "os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["plain", "escaping"])
def test_fork_bomb_at_the_process_limit_is_ended(make_sandbox: MakeSandbox, sandbox_image: str, escape: str) -> None:
    sandbox = make_sandbox(sandbox_image, pids=64)
    bomb = BOMB.format(escape=escape)
    execution = sandbox.start(["python3", "-c", bomb], grace_s=0.05)
    until(lambda: len(processes(sandbox)) >= 63, "the bomb fills the sandbox")
    execution.cancel().wait()
    assert execution.outcome is not None and execution.outcome.kind == "cancelled"
    assert processes(sandbox) == ALONE
    assert sandbox.run("echo lives").text == "lives\n"


@pytest.mark.parametrize("escape", ["", "setsid "], ids=["plain", "escaping"])
def test_fork_bomb_at_the_memory_limit_is_ended_with_its_command(make_sandbox: MakeSandbox, escape: str) -> None:
    sandbox = make_sandbox(memory_bytes=SMALL // 2)
    sandbox.run(f"printf '#!/bin/sh\n{escape}/bomb & {escape}/bomb & wait\n' > /bomb; chmod +x /bomb")
    # The greediest process is the command's own: the OOM killer takes it before the bomb's.
    execution = sandbox.run("/bomb & exec tail /dev/zero 2>/dev/null")
    assert execution.outcome is not None and (execution.outcome.kind, execution.returncode) == ("oom", 137)
    assert processes(sandbox) == ALONE
    assert sandbox.run("sleep 300", timeout_s=0.2, grace_s=0).outcome == Outcome(kind="timed_out", clock="total", ran=True)
    assert sandbox.run("echo lives").text == "lives\n"


def test_timeout_ends_a_fork_bomb_that_lives_at_the_memory_limit(make_sandbox: MakeSandbox) -> None:
    sandbox = make_sandbox(memory_bytes=SMALL // 2)
    # The OOM killer has to take the bomb's processes, never the command's own.
    bomb = "b() { (echo 1000 > /proc/self/oom_score_adj; b | b) & }; b 2>/dev/null; exec sleep 300"
    execution = sandbox.run(bomb, timeout_s=1, grace_s=0.1)
    assert execution.outcome == Outcome(kind="timed_out", clock="total", ran=True)
    assert execution.record.oom_kills > 0
    assert processes(sandbox) == ALONE
    assert sandbox.run("echo lives").text == "lives\n"


def test_kill_of_all_processes_costs_the_commands_not_the_sandbox(sandbox: Sandbox) -> None:
    bystander = started(sandbox, "echo begun; exec sleep 300", "sleep 300")
    epoch = sandbox.epoch
    sandbox.run("kill -9 -1")
    bystander.wait()
    assert bystander.outcome is not None and (bystander.outcome.kind, bystander.outcome.signal) == ("signalled", 9)
    assert bystander.text == "begun\n"
    assert sandbox.run("echo lives").text == "lives\n"
    assert (sandbox.refresh().record.state, sandbox.epoch) == ("running", epoch)
    until(lambda: processes(sandbox) == ALONE, "nothing is left")


def test_runner_killed_alone_costs_its_own_command(sandbox: Sandbox) -> None:
    bystander = started(sandbox, "exec sleep 400", "sleep 400")
    execution = sandbox.run("echo begun; setsid sleep 300 & kill -9 $PPID; sleep 301")
    assert execution.outcome is not None
    assert (execution.outcome.kind, execution.outcome.signal, execution.outcome.reason) == ("signalled", 9, "runner_killed")
    assert execution.text == "begun\n"
    assert not {"sleep 300", "sleep 301"} & set(processes(sandbox))
    assert not bystander.refresh().over


@pytest.mark.parametrize("hold", ["", ">/dev/null 2>&1"], ids=["holds the output", "lets go of the output"])
def test_background_process_lives_on_and_delays_nothing(sandbox: Sandbox, hold: str) -> None:
    execution = sandbox.run(f"sleep 300 {hold} & echo done")
    assert (execution.text, execution.returncode) == ("done\n", 0)
    assert execution.record.output.output_open is True
    assert "sleep 300" in processes(sandbox)
    assert sandbox.run("echo next").text == "next\n"
    assert "sleep 300" in processes(sandbox)


def test_background_process_ends_with_the_sandbox(sandbox: Sandbox) -> None:
    sandbox.run("setsid sleep 300 >/dev/null 2>&1 &")
    until(lambda: "sleep 300" in processes(sandbox), "it has begun")
    pid = host_pid(sandbox, "sleep 300")
    assert not gone(pid)
    sandbox.remove()
    assert gone(pid)


def test_background_process_can_go_on_writing(sandbox: Sandbox) -> None:
    sandbox.run(f"(for i in $(seq 100); do head -c 4096 /dev/zero || exit 1; done; echo whole > /end; {LOOP}) & echo done")
    # More than the pipe holds: it neither dies of SIGPIPE nor waits for a reader that is gone.
    until(lambda: sandbox.run("cat /end 2>/dev/null").text == "whole\n", "it has written all")


def test_output_of_a_process_substitution_is_whole(make_sandbox: MakeSandbox, sandbox_image: str) -> None:
    sandbox = make_sandbox(sandbox_image)
    execution = sandbox.run("seq 1 2000 > >(tee /copy)")
    assert execution.text == "".join(f"{number}\n" for number in range(1, 2001))
    assert docker("exec", str(sandbox.container_id), "cat", "/copy") == execution.text


def test_zombies_of_orphans_are_reaped(sandbox: Sandbox) -> None:
    sandbox.run("for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 &); done")
    until(lambda: processes(sandbox) == ALONE, "no zombie is left")
