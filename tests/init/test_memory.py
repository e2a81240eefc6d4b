"""Where memory is short: what the OOM killer leaves of a command, and an init that must not stand in line for memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from server import messages
from server.messages import Cause, Ending, EndingFlag
from tests.init.followed import Execution
from tests.init.halting import halted, undead
from tests.init.harness import Init, wait_until
from tests.init.processes import children, cmdline, descendants

pytestmark = pytest.mark.usefixtures("as_root")

LEFT = "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 &' &); "


def killed(init: Init, *, by_oom: bool, script: str = LEFT) -> Execution:
    """A command that has started the script and then dies of SIGKILL, which the OOM killer has sent or somebody else."""
    gate, go = os.pipe()
    run = init.server.run(f"{script} echo ready; read line; kill -9 $$", stdin=gate)
    init.server.output_of(run, "ready\n")
    if by_oom:
        init.count_oom_kill()
    os.write(go, b"go\n")
    os.close(gate)
    os.close(go)
    return run


def ending(execution: Execution) -> Ending:
    assert execution.ended is not None
    return execution.ended.ending


def state(pid: int) -> str:
    """Its letter in /proc; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_what_the_oom_killer_leaves_of_a_command_is_dead_when_its_ending_is_said(counted: Init) -> None:
    run = counted.server.ended(killed(counted, by_oom=True))
    assert descendants(counted.pid) == []
    assert run.exit_code == -signal.SIGKILL
    assert (ending(run).cause, ending(run).oom_kills) == (Cause.NONE, 1)
    assert ending(run).flags == EndingFlag.ALONE  # neither killed by us nor is its output open


def test_what_comes_during_the_hunt_changes_nothing_of_the_ending(counted: Init) -> None:
    server = counted.server
    run = server.output_of(server.run("sleep 1000 & echo ready; read line; kill -9 $$", stdin=(ends := os.pipe())[0]), "ready\n")
    sleepers: list[int] = []
    wait_until(lambda: sleepers.extend(pid for pid in descendants(counted.pid) if cmdline(pid).startswith(b"sleep")) or sleepers, "a sleep")
    (sleeper,) = sleepers
    counted.count_oom_kill()
    with undead(sleeper):
        os.write(ends[1], b"go\n")
        wait_until(lambda: state(sleeper) == "Z", "the hunt")
        server.kill(run)
        assert server.do("exit 5").exit_code == 5
        assert run.ended is None
    server.ended(run)
    assert (ending(run).cause, ending(run).flags, ending(run).oom_kills) == (Cause.NONE, EndingFlag.ALONE, 1)
    assert descendants(counted.pid) == []
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("kills", [0, 1], ids=["nobody killed for memory", "somebody else killed for memory before"])
def test_what_a_killed_command_leaves_lives_on_without_want_of_memory(counted: Init, kills: int) -> None:
    for _ in range(kills):
        counted.count_oom_kill()
    run = counted.server.ended(killed(counted, by_oom=False, script="sleep 1000 &"))
    assert ending(run).flags & EndingFlag.OUTPUT_OPEN
    (runner,) = children(counted.pid)
    assert len(children(runner)) == 1


def test_neighbours_of_a_command_that_the_oom_killer_took_live_on(counted: Init) -> None:
    counted.server.do("sleep 1000 > /dev/null &")
    neighbour = counted.server.output_of(counted.server.run("echo ready; sleep 1000"), "ready\n")
    counted.server.ended(killed(counted, by_oom=True))
    assert [len(children(runner)) for runner in children(counted.pid)] == [1, 1]
    assert neighbour.ended is None


def test_others_are_stopped_while_the_init_waits_for_memory_and_go_on_afterwards(counted: Init) -> None:
    server = counted.server
    server.output_of(server.run("echo ready; while :; do sleep 0.01; done"), "ready\n")
    others = descendants(counted.pid)

    def all_stopped() -> bool:
        counted.count_oom_kill()
        return all(state(pid) in "TZ" for pid in descendants(counted.pid))

    with halted(counted.pid, lambda: server.send(messages.skip(0, "asked-for"))):
        wait_until(all_stopped, "nobody runs")
    server.wait_for(lambda: server.stale, "the answer")
    wait_until(lambda: "T" not in map(state, descendants(counted.pid)), "the others go on")
    assert others[0] in descendants(counted.pid)


def test_nobody_is_stopped_while_the_init_is_merely_slow(counted: Init) -> None:
    server = counted.server
    server.output_of(server.run("echo ready; exec sleep 1000"), "ready\n")
    (runner,) = children(counted.pid)
    (sleeper,) = children(runner)
    with halted(counted.pid, lambda: server.send(messages.skip(0, "asked-for"))):
        looks = switches(counted.pid)
        wait_until(lambda: switches(counted.pid) > looks + 5, "the guard has looked several times")
        assert state(sleeper) == "S"
    server.wait_for(lambda: server.stale, "the answer")


def switches(pid: int) -> int:
    """How often the guard has gone to sleep."""
    (guard,) = (int(tid) for tid in os.listdir(f"/proc/{pid}/task") if int(tid) != pid)
    status = Path(f"/proc/{pid}/task/{guard}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
