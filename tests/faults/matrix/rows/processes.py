"""Hostile, unlucky and merely odd commands inside a sandbox."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from remote_env import Execution
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import row
from tests.faults.matrix.subjects import told
from tests.faults.matrix.traffic import Call, Command, Result
from tests.support.outside import peak_memory
from tests.support.server import SMALL

TIMEOUT = {"timeout_s": 1.0, "grace_s": 0.2}
FLOOD_HEAD = 32 << 20  # bytes kept of each end, by default
NEVER = "exec sleep 1000"


def numbers(count: int) -> str:
    return "".join(f"{number}\n" for number in range(1, count + 1))


def given(arena: Arena, specs: Mapping[str, Mapping[str, Any]]) -> Callable[[Command], Call]:
    """Runs each command with the options that `specs` has under its name."""
    return lambda command: arena.ours.run(command, **specs.get(command.name, {}))


def mixed(arena: Arena, odd: list[Command], share: int = 2) -> list[Command]:
    """The odd commands, shuffled among ordinary ones: of each `share`, one is odd."""
    commands = [*odd, *arena.traffic.commands(max(0, arena.commands - len(odd)))]
    arena.rng.shuffle(commands)
    return commands


def timed_out(arena: Arena, scripts: tuple[str, ...], *, workers: int, share: int = 2) -> None:
    """Commands that do not end when asked to, each under a timeout, among ordinary ones in the same sandbox."""
    count = max(1, arena.commands // share)
    odd = [arena.traffic.made_of(f"seq 1 20; {script}", -1, numbers(20), outcome="timed_out") for script in itertools.islice(
        itertools.cycle(scripts), count)]  # fmt: skip
    arena.drive(mixed(arena, odd), workers=workers, run=given(arena, {command.name: TIMEOUT for command in odd}))
    arena.note(f"{count} commands timed out")


@row(
    "ignores-sigterm", "Commands that ignore SIGTERM run into their timeout", "trap '' TERM in the command and in its children", "sandbox",
)  # fmt: skip
def ignores_sigterm(arena: Arena) -> None:
    scripts = ("trap '' TERM; while :; do sleep 0.05; done", "trap '' TERM INT HUP; sleep 1000 & sleep 1000; sleep 1000")
    timed_out(arena, scripts, workers=20)


@row(
    "stopped-process", "Stopped commands run into their timeout", "the command, or a child that it waits for, stops itself by SIGSTOP",
    "sandbox",
)  # fmt: skip
def stopped(arena: Arena) -> None:
    timed_out(arena, ("kill -STOP $$; echo never", "sh -c 'kill -STOP $$'; echo never", "setsid sh -c 'kill -STOP $$' & wait"), workers=20)


@row(
    "setsid-children", "Children in sessions of their own run into their command's timeout",
    "setsid, double fork, an empty environment, another user", "sandbox",
)  # fmt: skip
def own_sessions(arena: Arena) -> None:
    timed_out(
        arena,
        (
            f"setsid sleep 1000 & {NEVER}", f"(setsid sh -c '(sleep 1000 &)' &); {NEVER}", f"env -i /bin/sleep 1000 & {NEVER}",
            f"su app -c 'setsid sleep 1000 &'; {NEVER}", f"(trap '' TERM HUP; setsid sleep 1000) & {NEVER}",
        ),
        workers=20,
    )  # fmt: skip


@row("timeouts", "Timeouts by the hundred", "100 commands at once run into their timeouts together", "sandbox")
def timeouts(arena: Arena) -> None:
    timed_out(arena, (NEVER, "sleep 1000 & sleep 1000 & wait", "while :; do :; done"), workers=min(100, arena.commands), share=1)


@row("command-oom", "Commands run into the memory limit", "tail /dev/zero, alone and four at once, among ordinary commands", "sandbox")
def command_out_of_memory(arena: Arena) -> None:
    suspected = Result(137, "", "oom_suspected")
    count = max(2, arena.commands // 8)
    hogs = [arena.traffic.made_of("exec tail /dev/zero", 137, "", outcome="oom", also=(suspected,)) for _ in range(count)]
    calls = arena.drive(mixed(arena, hogs), workers=4)
    killed = [call for call in calls if call.outcome in ("oom", "oom_suspected")]
    alone = arena.drive([arena.traffic.made_of("exec tail /dev/zero", 137, "", outcome="oom")], workers=1)
    arena.note(f"{len(killed) + len(alone)} commands taken by the OOM killer")


@row("shm-full", "Memory is held by files in /dev/shm", "a sandbox's /dev/shm filled up to the memory limit, again and again", "sandbox")
def shm_full(arena: Arena) -> None:
    ours = arena.ours
    sandbox = ours.new_sandbox(shm_bytes=4 * SMALL)
    rounds = max(1, arena.commands // 8)
    commands: list[Command] = []

    def add(script: str, output: str) -> None:
        """While the memory is full the OOM killer may take any command; it must be told so then."""
        commands.append(arena.traffic.made_of(script, 0, output, also=(Result(137, output, "oom", cut=True),)))

    for _ in range(rounds):
        commands.append(arena.traffic.made_of("exec dd if=/dev/zero of=/dev/shm/full bs=1M 2>/dev/null", 137, "", outcome="oom"))
        for number in range(5):
            add(f"seq {number} 20", "".join(f"{line}\n" for line in range(number, 21)))
        add("rm -f /dev/shm/full; echo free", "free\n")
        add("dd if=/dev/zero of=/dev/shm/part bs=1M count=32 2>/dev/null && rm /dev/shm/part && echo room", "room\n")
    calls = arena.drive(commands, workers=1, run=lambda command: ours.run(command, sandbox))
    taken = sum(call.outcome == "oom" for call in calls) - rounds
    assert taken < rounds, f"{taken} commands that needed little memory were killed for it"
    sandbox.remove()
    arena.note(f"{rounds} times filled; {taken} small commands were taken by the OOM killer meanwhile, and told so")


@row(
    "fork-bomb", "A fork bomb fills the sandbox until its timeout",
    "a bomb at a limit of 128 processes; commands in another sandbox meanwhile, and in the bombed one afterwards", "sandbox",
)  # fmt: skip
def fork_bomb(arena: Arena) -> None:
    ours = arena.ours
    sandbox = ours.new_sandbox(pids=128)
    rounds = max(1, arena.commands // 50)
    each = max(2, arena.commands // rounds // 2)
    for number in range(rounds):
        escape = "setsid sh -c : & " if number % 2 else ""
        bomb = arena.traffic.made_of(f"b() {{ {escape}b | b & }}; b 2>/dev/null & {NEVER}", -1, "", outcome="timed_out")
        refused = _refused_forks(arena, str(sandbox.container_id))
        with arena.meanwhile([bomb], workers=1, run=lambda command: ours.run(command, sandbox, **TIMEOUT)):
            arena.drive(arena.traffic.commands(each), workers=2)
        assert _refused_forks(arena, str(sandbox.container_id)) > refused, "the bomb did not fill the sandbox"
        arena.drive(arena.traffic.commands(each), workers=2, run=lambda command: ours.run(command, sandbox))
    sandbox.remove()
    arena.note(f"{rounds} bombs")


BOMBS = (  # and whether the OOM killer takes the command's own process, or the timeout ends it
    ("b() { b | b & }; b 2>/dev/null & exec tail /dev/zero", True),
    (f"b() {{ (echo 1000 > /proc/self/oom_score_adj; b | b) & }}; b 2>/dev/null; {NEVER}", False),
    ("printf '#!/bin/sh\\nsetsid /b & setsid /b & wait\\n' > /b; chmod +x /b; /b 2>/dev/null & exec tail /dev/zero", True),
)


@row(
    "fork-bomb-memory", "A fork bomb meets the memory limit before the limit of processes",
    "bombs in 64 MiB, whose first process the OOM killer takes or spares; commands in another sandbox meanwhile, "
    "and in the bombed one afterwards, some of them into their timeouts", "sandbox",
)  # fmt: skip
def fork_bomb_out_of_memory(arena: Arena) -> None:
    ours = arena.ours
    sandbox = ours.new_sandbox(memory_bytes=SMALL // (4 if arena.short else 2), pids=4096)
    rounds = max(2, arena.commands // 50)
    each = max(2, arena.commands // rounds // 2)
    kills = 0
    for script, taken in itertools.islice(itertools.cycle(BOMBS), rounds):
        ending = {"returncode": 137, "outcome": "oom"} if taken else {"returncode": -1, "outcome": "timed_out"}
        bomb = arena.traffic.made_of(script, output="", **ending)
        spec = {} if taken else TIMEOUT
        seen: list[Execution] = []

        def run(command: Command, spec: Mapping[str, Any] = spec, seen: list[Execution] = seen) -> Call:
            return told(command, lambda: seen.append(sandbox.run(command.text, **spec)) or seen[-1])

        with arena.meanwhile([bomb], workers=1, run=run):
            arena.drive(arena.traffic.commands(each), workers=2)
        assert seen and seen[0].record.oom_kills > 0, "the bomb did not meet the memory limit"
        kills += seen[0].record.oom_kills
        late = arena.traffic.made_of(NEVER, -1, "", outcome="timed_out")
        after = [late, *arena.traffic.commands(each)]
        arena.drive(after, workers=2, run=lambda command, late=late: ours.run(command, sandbox, **(TIMEOUT if command is late else {})))
    left = arena.docker("top", str(sandbox.container_id), "-eo", "pid,args").splitlines()[2:]
    assert not left, f"the bombs have left {left}"
    sandbox.remove()
    arena.note(f"{rounds} bombs, {kills} processes taken by the OOM killer")


def _refused_forks(arena: Arena, container: str) -> int:
    """How often the limit of processes was hit in this container, by its cgroup (v1 or v2)."""
    pid = arena.docker("inspect", "-f", "{{.State.Pid}}", container).strip()
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "pids" in controllers.split(",") or not controllers:
            for root in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
                events = Path(f"{root}{path}/pids.events")
                if events.exists():
                    return int(events.read_text().split()[1])
    raise AssertionError("no cgroup counts refused forks")


@row("killall-sh", "killall -9 sh inside the sandbox", "killall -9 sh by one command while shells of others run", "sandbox")
def killall_shells(arena: Arena) -> None:
    _killed_from_inside(arena, "exec killall -9 sh", also=())
    # Who is killed that way leaves its children behind, as a shell does anywhere; another command ends them.
    arena.drive([arena.traffic.made_of("killall -9 sleep 2>/dev/null; echo swept", 0, "swept\n")])


@row("kill-all", "kill -9 -1 inside the sandbox", "kill -9 -1 as root by one command while others run: runners die with them", "sandbox")
def kill_everything(arena: Arena) -> None:
    _killed_from_inside(arena, "kill -9 -1; exit 0", also=(Result(137, "", "signalled"),))


def _killed_from_inside(arena: Arena, script: str, also: tuple[Result, ...]) -> None:
    width = 12
    rounds = -(-arena.commands // (2 * width))
    for _ in range(rounds):
        victims = []
        for _ in range(width):
            plain = arena.traffic.rng.randint(1, 40)
            script_of_victim = f"seq 1 {plain}; sleep 1000; echo never"
            victims.append(arena.traffic.made_of(script_of_victim, 137, numbers(plain), outcome="signalled", cut=True))
        before = sum(arena.runs().values())
        with arena.meanwhile(victims, workers=width):
            arena.until(lambda due=before + width: sum(arena.runs().values()) >= due, "the victims run")
            # One that is on its way when it happens is killed as well, perhaps before it left its mark.
            arena.drive([arena.traffic.made_of(script, 0, "", also=also)], workers=1)
        arena.drive(arena.traffic.commands(width - 1), workers=4)
    arena.note(f"{rounds} times, {rounds * width} commands killed")


@row(
    "background-child",
    "Background children hold stdout",
    "sleep in the background with the command's own stdout, by the hundred",
    "sandbox",
)
def background_child(arena: Arena) -> None:
    commands = []
    for number in range(arena.commands):
        away = "setsid " if number % 2 else ""
        commands.append(arena.traffic.made_of(f"{away}sleep 1000 & seq 1 {number}; exit {number % 100}", number % 100, numbers(number)))
    arena.drive(commands, workers=8)
    left = _count(arena, "sleep 1000")
    assert left == arena.commands, f"{left} background children live, not {arena.commands}"
    arena.drive([arena.traffic.made_of("killall -9 sleep; echo swept", 0, "swept\n")])
    arena.note(f"{left} background children lived on, and delayed nothing")


def _count(arena: Arena, arguments: str) -> int:
    lines = arena.docker("top", str(arena.ours.sandbox.container_id), "-eo", "pid,args").splitlines()
    return sum(line.split(None, 1)[-1] == arguments for line in lines)


@row("closes-stdout", "Commands close their own stdout", "exec >&- 2>&-, and go on for a while", "sandbox")
def closes_stdout(arena: Arena) -> None:
    count = arena.commands // 2
    odd = [arena.traffic.made_of(f"seq 1 {n}; exec >&- 2>&-; sleep 0.05; exit {n % 120}", n % 120, numbers(n)) for n in range(count)]
    arena.drive(mixed(arena, odd))
    arena.note(f"{count} commands without stdout")


@row("fifty-at-once", "1,000 short commands, 50 at once, in one sandbox", "50 threads of one client", "sandbox", commands=1000, short=200)
def fifty_at_once(arena: Arena) -> None:
    arena.drive(arena.traffic.commands(arena.commands), workers=50)


@row(
    "cancel-storm", "Cancels from every side", "each command cancelled by four threads at once, at some moment of its life", "sandbox",
    allows=("not run",),
)  # fmt: skip
def cancel_storm(arena: Arena) -> None:
    commands = []
    for _ in range(arena.commands):
        plain = arena.traffic.command(sleep_s=0.1, lines=40)
        arena.traffic.made.pop()
        commands.append(
            arena.traffic.made_of(
                plain.text.partition("; ")[2], plain.returncode, plain.output,
                also=(Result(-1, plain.output, "cancelled", cut=True),),
            )
        )  # fmt: skip
    moments = {command.name: arena.rng.uniform(0.0, 0.15) for command in commands}

    def run(command: Command) -> Call:
        def storm() -> Execution:
            execution = arena.ours.sandbox.start(command.text, grace_s=0.05)
            timer = [threading.Timer(moments[command.name], execution.cancel) for _ in range(4)]
            for each in timer:
                each.start()
            try:
                return execution.wait()
            finally:
                for each in timer:
                    each.join()

        return told(command, storm)

    calls = arena.drive(commands, run=run)
    cancelled = sum(call.outcome == "cancelled" for call in calls)
    assert cancelled, "no cancel came in time"
    arena.note(f"{4 * arena.commands} cancels; {cancelled} commands ended by one")


@row(
    "flood", "A command writes 10 GB", "10 GB through the pipe, among small commands on the same server; head and tail are kept", "sandbox",
)  # fmt: skip
def flood(arena: Arena) -> None:
    size = 10_000_019  # odd on purpose: what stands where tells which part it is
    times = 20 if arena.short else 1000
    pattern = arena.rng.randbytes(size)
    (arena.count / "pattern").write_bytes(pattern)
    kept = (pattern * 4)[:FLOOD_HEAD] + (pattern * 4)[-FLOOD_HEAD:]
    total = size * times
    digest = hashlib.sha256(kept).hexdigest()
    right = f"total {total}, gap {FLOOD_HEAD} to {total - FLOOD_HEAD}, cut by limit, kept {len(kept)}, sha256 {digest}"
    command = arena.traffic.made_of(f"for n in $(seq 1 {times}); do cat {arena.traffic.count_dir}/pattern; done; exit 7", 7, right)
    peak = peak_memory(arena.server.pid)

    def run(command: Command) -> Call:
        call = told(command, lambda: remember(arena.ours.sandbox.run(command.text)))
        (execution,) = seen
        facts, bytes_ = execution.record.output, execution.output()
        assert facts.gap is not None
        call.output = (
            f"total {facts.total_bytes}, gap {facts.gap[0]} to {facts.gap[1]}, cut by {facts.truncated}, kept {facts.kept_bytes}, "
            f"sha256 {hashlib.sha256(bytes_).hexdigest()}"
        )
        return call

    seen: list[Execution] = []

    def remember(execution: Execution) -> Execution:
        seen.append(execution)
        return execution

    with arena.meanwhile([command], workers=1, run=run):
        arena.until(lambda: arena.runs()[command.name], "the flood has begun")
        arena.drive(arena.traffic.commands(arena.commands), workers=4)
    grown = peak_memory(arena.server.pid) - peak
    assert grown < arena.rss_slack, f"the server's memory grew by {grown} bytes"
    (arena.count / "pattern").unlink()
    arena.note(f"{total} bytes; the server's memory peaked {grown >> 20} MiB higher")
