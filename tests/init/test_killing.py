"""Timeouts, kills, signals; what is left alive afterwards, and what is not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server import messages
from server.messages import Cause, Ending, EndingFlag, EndingKind
from tests.init.followed import Execution
from tests.init.harness import PATIENCE_S, Init, Server, unread, wait_until
from tests.init.processes import alive, children, cmdline, descendants

ZOMBIE_LEADER = "whose main thread has ended"
SPAWN = {
    "in a session of its own": "setsid sleep 1000 & echo $!",
    "forked twice": "(setsid sh -c 'sleep 1000 & echo $!' &)",
    "with an empty environment": "env -i sleep 1000 & echo $!",
    "of another user": "setpriv --reuid=65534 --regid=65534 --clear-groups sleep 1000 & echo $!",
    "stopped": "sleep 1000 & echo $!; kill -STOP $!",
    "ignoring TERM": "(trap '' TERM HUP INT; sleep 1000) & echo $!",
    "with its output elsewhere": "sleep 1000 > /dev/null 2>&1 < /dev/null & echo $!",
    ZOMBIE_LEADER: (
        "python3 -c 'import threading, time, ctypes, os; print(os.getpid(), flush=True); "
        "threading.Thread(target=time.sleep, args=(1000,)).start(); ctypes.CDLL(None).pthread_exit(None)' &"
    ),
}


def ending(execution: Execution) -> Ending:
    assert execution.ended is not None
    return execution.ended.ending


def pids(execution: Execution) -> list[int]:
    return [int(word) for word in execution.text.split() if word.isdigit()]


# ------------------------------------------------------------------------------------------------------------ kill


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("kind", SPAWN)
def test_kill_reaches_every_kind_of_descendant(server: Server, kind: str) -> None:
    run = server.run(f"{SPAWN[kind]}\nsleep 1000")
    server.wait_for(lambda: pids(run), "the descendant's pid")
    (descendant,) = pids(run)
    assert alive(descendant) or kind == ZOMBIE_LEADER
    server.kill(run)
    server.ended(run)
    assert not Path(f"/proc/{descendant}").exists()
    assert ending(run).cause is Cause.CANCEL


def test_kill_ends_a_whole_tree_before_the_ending_is_said(init: Init) -> None:
    run = init.server.run("for i in 1 2 3 4; do (for j in 1 2 3 4; do (setsid sleep 1000 & sleep 1000) & done; wait) & done; wait")
    wait_until(lambda: len(descendants(init.pid)) >= 4 * 4 * 2, "the tree")
    family = descendants(init.pid)
    init.server.kill(run)
    init.server.ended(run)
    assert [pid for pid in family if alive(pid)] == []
    assert ending(run).flags & EndingFlag.KILLED_BY_US


def test_kill_outruns_a_process_that_forks_for_ever(init: Init) -> None:
    # Each generation leaves by setsid and a dead parent. It would end by itself, much later.
    code = (
        "import os\n"
        "print('ready', flush=True)\n"
        "if os.fork(): os.wait(); os.execvp('sleep', ['sleep', '1000'])\n"
        "for generation in range(100000):\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
    )
    run = init.server.output_of(init.server.run(["python3", "-c", code]), "ready")
    init.server.kill(run)
    init.server.ended(run)
    assert descendants(init.pid) == []


@pytest.mark.usefixtures("as_root")
def test_kill_ends_a_fork_bomb_at_its_limit(init: Init) -> None:
    code = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0: os.setsid()\n"
        "    except OSError: os.write(1, b'full') if os.getpid() == os.getpgid(0) else None\n"
    )
    run = init.server.output_of(init.server.run(["python3", "-c", code], user="54321"), "full")
    init.server.kill(run)
    init.server.ended(run)
    assert descendants(init.pid) == []


def test_term_comes_first_and_its_handler_has_the_grace(server: Server) -> None:
    command = "exec 2>/dev/null; trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done"
    run = server.run(command, grace_ms=int(PATIENCE_S * 1000))
    server.output_of(run, "ready")
    server.kill(run)
    server.ended(run)
    assert run.text == "ready\nbye\n"
    assert run.exit_code == 3
    assert ending(run).cause is Cause.CANCEL
    assert not ending(run).flags & EndingFlag.KILLED_BY_US


def test_kill_right_behind_its_run_ends_it(server: Server) -> None:
    for _ in range(20):
        run = server.run("sleep 1000", grace_ms=0)
        server.kill(run)
        assert ending(server.finished(run)).cause is Cause.CANCEL


def test_kill_of_what_has_ended_or_was_never_there_changes_nothing(server: Server) -> None:
    run = server.ended(server.run("exit 5"))
    first = ending(run)
    server.kill(run)
    server.send(messages.kill("never-there"))
    server.all_said()
    assert ending(run) == first
    assert first.cause is Cause.NONE


def test_killing_one_execution_leaves_its_neighbours_alone(server: Server) -> None:
    neighbour = server.output_of(server.run("trap '' HUP; echo ready; read line; echo $line", stdin=(ends := os.pipe())[0]), "ready")
    for _ in range(5):
        run = server.run("sleep 1000 & setsid sleep 1000 & wait")
        server.kill(run)
        server.finished(run)
    os.write(ends[1], b"still here\n")
    assert server.finished(neighbour).text == "ready\nstill here\n"
    for end in ends:
        os.close(end)


def test_signal_goes_to_the_whole_process_group(server: Server) -> None:
    run = server.run("trap 'echo outer' INT; (trap 'echo inner; exit' INT; echo ready; while :; do sleep 0.01; done); echo done")
    server.output_of(run, "ready")
    server.send(messages.signal(run.id, signal.SIGINT))
    assert sorted(server.finished(run).text.split()) == ["done", "inner", "outer", "ready"]


def test_signal_right_behind_its_run_is_not_lost(server: Server) -> None:
    for _ in range(20):
        run = server.run("sleep 1000")
        server.send(messages.signal(run.id, signal.SIGUSR1))
        assert server.finished(run).exit_code == -signal.SIGUSR1


def test_senseless_signals_change_nothing(server: Server) -> None:
    run = server.run("sleep 1000")
    for signum in (0, 65, 1 << 31):
        server.send(messages.signal(run.id, signum))
    server.send(messages.signal("never-there", 9))
    server.all_said()
    assert run.ended is None
    server.kill(run)
    server.finished(run)


# -------------------------------------------------------------------------------------------------------- timeouts


def test_total_timeout_kills_and_keeps_the_output_so_far(server: Server) -> None:
    run = server.ended(server.run("echo before; trap '' TERM; sleep 1000", timeout_ms=150, grace_ms=10))
    assert run.text == "before\n"
    assert ending(run).kind is EndingKind.EXITED
    assert ending(run).cause is Cause.TOTAL
    assert ending(run).flags & EndingFlag.KILLED_BY_US


def test_timeout_that_does_not_come_to_pass_leaves_no_mark(server: Server) -> None:
    assert ending(server.do("exit 4", timeout_ms=60_000, idle_timeout_ms=60_000)).cause is Cause.NONE


def test_timeout_fires_while_the_server_is_away(server: Server) -> None:
    run = server.run("echo before; sleep 1000", timeout_ms=200)
    server.output_of(run, "before")
    server.die()
    wait_until(lambda: not any(b"sleep\x001000" in cmdline(pid) for pid in all_pids()), "the timeout")
    hello = server.connect()
    assert [entry.id for entry in hello.entries] == [run.id]
    server.ended(run)
    assert ending(run).cause is Cause.TOTAL


def all_pids() -> list[int]:
    return descendants(os.getpid())


def test_idle_timeout_fires_when_nothing_is_written(server: Server) -> None:
    run = server.ended(server.run("echo before; sleep 1000", idle_timeout_ms=150))
    assert ending(run).cause is Cause.IDLE
    assert run.text == "before\n"


def test_idle_timeout_is_put_off_by_activity_that_the_server_tells_of(server: Server) -> None:
    # Silent, but the server says otherwise, until well after the clock would have fired.
    run = server.run("sleep 0.6; exit 7", idle_timeout_ms=300)
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(0.02):
            server.send(messages.activity(run.id))

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        server.ended(run)
    finally:
        stop.set()
        teller.join()
    assert run.exit_code == 7
    assert ending(run).cause is Cause.NONE


def test_idle_timeout_counts_output_that_nobody_has_read_as_activity(server: Server) -> None:
    server.reading = False
    run = server.run("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; sleep 0.05; done; exit 7", idle_timeout_ms=400)
    server.wait_for(lambda: run.started, "the start")
    server.die()
    wait_until(lambda: not any(b"echo $i" in cmdline(pid) for pid in all_pids()), "its end, one way or the other")
    server.connect()
    assert server.ended(run).exit_code == 7


def test_waiting_for_an_absent_server_is_not_idling_and_is_told(server: Server) -> None:
    server.reading = False
    run = server.run(["python3", "-c", "import os; os.write(1, b'x' * 200_000); os.write(1, b'end')"], idle_timeout_ms=200)
    server.wait_for(lambda: run.started, "the start")
    wait_until(lambda: run.pipe is not None and unread(run.pipe) >= 65536, "a full pipe")
    server.die()
    away_until = time.monotonic() + 0.6  # three times the idle timeout
    wait_until(lambda: time.monotonic() > away_until, "the absence")
    server.reading = True
    server.connect()
    server.ended(run)
    assert len(run.output) == 200_003
    assert ending(run).cause is Cause.NONE
    assert ending(run).waited_ms > 0


# --------------------------------------------------------------------------------------- attacks from the inside


def test_killed_runner_costs_its_own_command_and_all_that_it_left(init: Init) -> None:
    server = init.server
    neighbour = server.output_of(server.run("echo ready; sleep 1000"), "ready")
    run = server.output_of(server.run("setsid sleep 1000 & echo $!; (sleep 1000 & echo $!); echo $$; kill -9 $PPID; sleep 1000"), "\n")
    server.ended(run)
    assert run.exit_code == -signal.SIGKILL
    assert ending(run).flags & EndingFlag.RUNNER_KILLED
    assert len(pids(run)) >= 2
    assert not any(alive(pid) for pid in pids(run))
    assert neighbour.ended is None
    server.kill(neighbour)
    server.finished(neighbour)
    assert server.do("echo next").text == "next\n"


def test_runner_killed_alone_after_its_ack_takes_the_background_along(init: Init) -> None:
    server = init.server
    run = server.do("sleep 1000 > /dev/null & echo $!; echo $PPID")
    background, runner = pids(run)
    assert alive(background)
    assert alive(runner)
    os.kill(runner, signal.SIGKILL)
    wait_until(lambda: not alive(background), "the background process's end")
    assert server.do("echo next").text == "next\n"


def test_stopped_runner_goes_on(server: Server) -> None:
    assert server.do("kill -STOP $PPID; sleep 0.01; exit 6").exit_code == 6


def test_runner_minds_no_other_signal(server: Server) -> None:
    every = " ".join(str(n) for n in range(1, 32) if n not in (signal.SIGKILL, signal.SIGSTOP))
    assert server.do(f"for n in {every}; do kill -$n $PPID; done; exit 6").exit_code == 6


def test_kill_everything_costs_the_running_commands_and_never_the_init(namespaced: Init) -> None:
    server = namespaced.server
    background = server.do("setsid sleep 1000 > /dev/null 2>&1 & echo started")
    assert background.text == "started\n"
    neighbour = server.output_of(server.run("echo ready; sleep 1000"), "ready")
    killer = server.run("kill -9 -1; sleep 1000")
    for run in (killer, neighbour):
        server.finished(run)
        assert run.exit_code == -signal.SIGKILL
        assert not ending(run).flags & EndingFlag.KILLED_BY_US
    assert server.do("echo next").text == "next\n"
    wait_until(lambda: children(namespaced.pid) == [], "an empty sandbox")


@pytest.mark.parametrize("signum", ["TERM", "INT", "QUIT", "KILL", "STOP", "HUP", "ABRT", "CHLD"])
def test_signals_from_inside_do_not_reach_pid_1(namespaced: Init, signum: str) -> None:
    assert namespaced.server.do(f"kill -{signum} 1; exit 0").exit_code == 0
    assert namespaced.server.do("echo still; cat /proc/1/cmdline | tr '\\0' ' '").text.startswith("still\n/")


@pytest.mark.usefixtures("as_root")
def test_init_and_runner_are_out_of_reach_of_other_processes(server: Server) -> None:
    for user in ("nobody", "daemon"):
        run = server.do("ls /proc/$PPID/fd || cat /proc/$PPID/environ || kill $PPID || echo refused", user=user)
        assert run.text.splitlines()[-1] == "refused"


def test_term_from_outside_ends_everything_at_once(start_init: Callable[..., Init], sanitized_binary: Path) -> None:
    init = start_init(sanitized_binary)
    init.server.connect()
    run = init.server.run("setsid sleep 1000 & trap '' TERM; echo ready; sleep 1000")
    init.server.output_of(run, "ready")
    family = descendants(init.pid)
    os.kill(init.pid, signal.SIGTERM)
    assert init.process.wait(timeout=PATIENCE_S) == 0
    assert [pid for pid in family if alive(pid)] == []


# ---------------------------------------------------------------------------------------- what is left behind


def test_background_process_neither_delays_the_ending_nor_dies_of_it(init: Init) -> None:
    server = init.server
    report = init.directory / "report"
    # It writes far more than a pipe holds, to a pipe that nobody reads any more; only then it reports.
    code = f"import os; [os.write(1, b'x' * 65536) for _ in range(64)]; open('{report}.new', 'w').write('whole')"
    os.mkfifo(init.directory / "gate")
    background = f'read line < gate; python3 -c "{code}"; mv {report}.new {report}; sleep 1000'
    run = server.run(f"echo begun; ({background}) & exit 3", workdir=str(init.directory))
    server.ended(run)
    assert run.exit_code == 3
    assert ending(run).flags & EndingFlag.OUTPUT_OPEN
    assert run.text == "begun\n"
    server.ack(run)
    server.all_said()
    (init.directory / "gate").write_text("go\n")
    wait_until(report.exists, "the background process's report")
    assert report.read_text() == "whole"


def test_ending_without_descendants_does_not_speak_of_open_output(server: Server) -> None:
    assert not ending(server.do("sleep 0 & wait")).flags & EndingFlag.OUTPUT_OPEN


def test_runner_of_a_background_process_ends_with_it(init: Init) -> None:
    run = init.server.do("sleep 1000 & echo $!")
    assert len(children(init.pid)) == 1
    os.kill(pids(run)[0], signal.SIGKILL)
    wait_until(lambda: children(init.pid) == [], "the runner's end")
