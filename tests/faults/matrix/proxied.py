"""What rows with a fault proxy share: the proxy between client and server, its dice, and that it did what it was there for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tests.faults.matrix.arena import Arena
from tests.faults.matrix.subjects import RemoteEnv
from tests.faults.matrix.traffic import Call, Command
from tests.support.faultproxy import FaultProxy
from tests.support.handling import Rule

ANY = b"HTTP/1.1\r\n"  # what the head of every request contains


def through_proxy(arena: Arena, rule: Rule | None = None, *, idle_s: float | None = None, silence_s: float | None = None) -> FaultProxy:
    """A proxy in front of the subject's server; the subject's client comes through it from now on."""
    proxy = FaultProxy(arena.subject.port, idle_s=idle_s, silence_s=silence_s, seed=arena.seed)
    arena.on_close(proxy.close)
    arena.subject.connect(proxy.url)
    proxy.rule = rule or proxy.rule
    return proxy


def dice(arena: Arena) -> random.Random:
    """For a proxy, whose requests come in an order of their own: not the dice that make the commands."""
    return random.Random(f"{arena.row.name} {arena.seed} faults")


def drive_all(
    arena: Arena,
    proxy: FaultProxy,
    *injected: str,
    commands: Iterable[Command] | None = None,
    workers: int = 8,
    run: Callable[[Command], Call] | None = None,
) -> None:
    """Drives the row's commands, and sees that what was to be injected was; copies under way have then arrived."""
    arena.drive(commands or arena.traffic.commands(arena.commands), workers=workers, run=run)
    proxy.settle()
    told_counts(arena, proxy, *injected)


def told_counts(arena: Arena, proxy: FaultProxy, *injected: str) -> None:
    """Notes how often each of these happened. Fails a row of ours in which one never did."""
    counts = proxy.counts
    if isinstance(arena.subject, RemoteEnv):
        missing = [name for name in injected if not counts[name]]
        assert not missing, f"nothing was injected: {', '.join(missing)} (of {dict(counts)})"
    arena.note(", ".join(f"{counts[name]} × {name}" for name in injected))
