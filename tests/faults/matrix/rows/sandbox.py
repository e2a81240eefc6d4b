"""The container is hurt from outside: killed, stopped, restarted, frozen, removed, out of memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from remote_env import Sandbox
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import row
from tests.faults.matrix.traffic import Command, Fate
from tests.support.server import SMALL

AT_ONCE = 20  # commands in one container when it is hurt; half of them would never end by themselves


def last_words(arena: Arena) -> Command:
    """A command that says something, tells outside that it has, and then never ends."""
    output = "".join(f"{number}\n" for number in range(1, 51))
    return arena.traffic.made_of(f"seq 1 50; echo x >> {arena.traffic.count_dir}/said; exec sleep 1000", 0, output)


def said(arena: Arena) -> int:
    """How many commands of `last_words` have said all."""
    marks = arena.count / "said"
    return marks.read_text().count("x") if marks.exists() else 0


def taken_away(arena: Arena, hurt: Callable[[Sandbox], object], event: str, **spec: object) -> None:
    """In rounds: a sandbox, commands that run in it, and then its container is hurt. What runs must be told as lost, with
    all that it has said; what comes later as not run; what was over before keeps its result.

    Args:
        event: the engine's own word for what happened, which it must have said once a round.
    """
    ours, began = arena.ours, int(time.time())
    rounds = max(1, arena.commands // AT_ONCE)
    lost = refused = 0
    for _ in range(rounds):
        sandbox = ours.new_sandbox(**spec)
        lasting = [last_words(arena) for _ in range(AT_ONCE // 2)]
        before, enough = said(arena) + len(lasting), sum(arena.runs().values()) + len(lasting) + 3
        brief = arena.traffic.commands(AT_ONCE - len(lasting), sleep_s=0.02)
        with arena.meanwhile([*lasting, *brief], workers=len(lasting) + 2, run=lambda command, at=sandbox: ours.run(command, at)) as calls:
            arena.until(lambda due=before: said(arena) == due, "the lasting ones have said all")
            arena.until(lambda due=enough: sum(arena.runs().values()) >= due, "brief ones run beside them")
            hurt(sandbox)
        told = {call.command.name: call for call in calls}
        for command in lasting:
            call = told[command.name]
            assert call.fate is Fate.LOST, f"{command.name} was told {call.fate.value}: {call.detail}"
            assert call.output == command.output, f"{command.name} is lost and so is what it had said: {call.output!r}"
        lost += sum(call.fate is Fate.LOST for call in calls)
        refused += sum(call.fate is Fate.NOT_RUN for call in calls)
        happened = arena.docker(
            "events", "--since", str(began), "--until", str(int(time.time()) + 1), "--filter", f"container={sandbox.container_id}",
            "--filter", f"event={event}", "--format", "{{.Action}}",
        )  # fmt: skip
        assert event in happened, f"the engine tells of no {event!r}"
        sandbox.remove()
    arena.note(f"{rounds} containers; {lost} commands lost with what they had said by then, {refused} refused")


def _by_docker(arena: Arena, *words: str) -> Callable[[Sandbox], object]:
    return lambda sandbox: arena.docker(*words, str(sandbox.container_id))


@row(
    "container-killed", "The container is killed from outside", "docker kill, with 10 commands in it that never end by themselves",
    "sandbox", allows=("lost", "not run"), short=20,
)  # fmt: skip
def container_killed(arena: Arena) -> None:
    taken_away(arena, _by_docker(arena, "kill"), "die")


@row(
    "container-stopped", "The container is stopped from outside", "docker stop, with 10 commands in it that never end by themselves",
    "sandbox", allows=("lost", "not run"), short=20,
)  # fmt: skip
def container_stopped(arena: Arena) -> None:
    taken_away(arena, _by_docker(arena, "stop", "-t", "1"), "die")


@row(
    "container-restarted", "The container is restarted from outside", "docker restart: the same container, another life of its init",
    "sandbox", allows=("lost", "not run"), short=20,
)  # fmt: skip
def container_restarted(arena: Arena) -> None:
    # The new life is ended as soon as its hello comes, which may be while the engine still starts it.
    taken_away(arena, lambda sandbox: arena.docker("restart", "-t", "0", str(sandbox.container_id), check=False), "die")


@row(
    "container-removed", "The container is removed from outside", "docker rm -f, with 10 commands in it that never end by themselves",
    "sandbox", allows=("lost", "not run"), short=20,
)  # fmt: skip
def container_removed(arena: Arena) -> None:
    taken_away(arena, _by_docker(arena, "rm", "-f"), "destroy")


@row(
    "container-oom", "The kernel's OOM killer takes the container's PID 1",
    "oom_score_adj makes it the preferred victim, then /dev/shm is filled beyond the memory limit",
    "sandbox", allows=("lost", "not run"), short=20,
)  # fmt: skip
def container_out_of_memory(arena: Arena) -> None:
    def hurt(sandbox: Sandbox) -> None:
        pid = arena.docker("inspect", "-f", "{{.State.Pid}}", str(sandbox.container_id)).strip()
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        arena.docker("exec", str(sandbox.container_id), "dd", "if=/dev/zero", "of=/dev/shm/full", "bs=1M", check=False)

    taken_away(arena, hurt, "oom", shm_bytes=4 * SMALL)


@row(
    "container-paused", "The container is frozen, and thawed again",
    "docker pause, commands sent to it and to another one meanwhile, docker unpause", "sandbox",
)  # fmt: skip
def container_paused(arena: Arena) -> None:
    ours = arena.ours
    other = ours.new_sandbox()
    rounds = max(1, arena.commands // 40)
    for _ in range(rounds):
        half = arena.commands // rounds // 2
        frozen = arena.traffic.commands(half, sleep_s=0.05)
        some = sum(arena.runs().values()) + max(1, half // 4)
        with arena.meanwhile(frozen, workers=half):
            arena.until(lambda due=some: sum(arena.runs().values()) >= due, "some of them run")
            arena.docker("pause", str(ours.sandbox.container_id))
            lively = arena.drive(arena.traffic.commands(half), run=lambda command: ours.run(command, other))
            assert all(call.exact for call in lively), "a frozen container held up another one"
            arena.wait(2.0)
            arena.docker("unpause", str(ours.sandbox.container_id))
    other.remove()
    arena.note(f"{rounds} times frozen")
