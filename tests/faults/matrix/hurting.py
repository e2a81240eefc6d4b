"""Hurting a server again and again while commands are driven."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults.matrix.arena import Arena
from tests.faults.matrix.traffic import Call, Command

PATIENCE_S = 60.0  # for a failpoint to be passed


def drive_while(
    arena: Arena, hurt: Callable[[], None], make: Callable[[], list[Command]], *, workers: int, run: Callable[[Command], Call] | None = None
) -> None:
    """Drive wave after wave of what `make` makes until `hurt`, which runs beside them, is through and the row has its commands."""
    with ThreadPoolExecutor(1) as pool:
        hurting = pool.submit(hurt)
        while not hurting.done() or len(arena.calls) < arena.commands:
            arena.drive(make(), workers=workers, run=run)
        hurting.result()


def kill_at(arena: Arena, failpoints: Iterable[tuple[str, int]]) -> int:
    """Kill the server at the n-th pass of each of these places, one after the other, and start it again for good.

    Returns:
        How many kills there were: one for each, or AssertionError is raised, since nothing was tested.
    """
    server, kills = arena.server, 0
    server.kill()
    for name, passes in failpoints:
        process = server.spawn(f"{name}:kill@{passes}")
        try:
            code = process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the failpoint {name} was not passed {passes} times within {PATIENCE_S:.0f} s") from None
        assert code == -signal.SIGKILL, f"armed with {name}, the server ended with {code}"
        kills += 1
    server.start()
    return kills


def until_running(arena: Arena, commands: Sequence[Command], least: int | None = None) -> None:
    """Wait until so many of these have left their mark, by default all."""
    wanted = len(commands) if least is None else least
    arena.until(lambda: running(arena, commands) >= wanted, f"{wanted} of {len(commands)} commands run")


def restarts(arena: Arena) -> int:
    """How often the server has started itself again."""
    return arena.server.log.read_text().count("starting again")


def until_restart(arena: Arena, seen: int) -> None:
    """Wait until the server has started itself again more often than `seen`."""
    arena.until(lambda: restarts(arena) > seen, "a commit failed")


def running(arena: Arena, commands: Iterable[Command]) -> int:
    """How many of these have left their mark."""
    seen = arena.runs()
    return sum(command.name in seen for command in commands)
