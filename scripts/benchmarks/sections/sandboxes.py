"""How long a container takes to come and go."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from scripts.benchmarks.arena import STAY, Arena
from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.figures import duration, percentile, ratio
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.progress import steps
from scripts.benchmarks.swerex import Rex
from scripts.benchmarks.turns import take_turns

ROUNDS = (20, 2)
Taken = tuple[float, float]
"""Seconds to create and to remove."""


def timed(create: Callable[[], Any], remove: Callable[[Any], object]) -> Taken:
    began = time.perf_counter()
    made = create()
    created = time.perf_counter()
    remove(made)
    return created - began, time.perf_counter() - created


def swe_rex(arena: Arena) -> Any:
    """A container whose server answers: before that no command can be run in it."""
    rex = Rex(arena.containers, arena.image)
    arena.loop.wait(rex.started())
    return rex.container


def measure(bench: Bench) -> Data:
    arena = bench.arena
    containers = arena.containers
    turns: dict[str, Callable[[], Taken]] = {
        "sandbox": partial(timed, partial(arena.client.create_sandbox, arena.image), lambda made: made.remove()),
        "docker run -d": partial(timed, partial(containers.run, arena.image, STAY), containers.remove),
    }
    if bench.wants("swe-rex"):
        arena.attempt("swe-rex", lambda: arena.rex)
        if "swe-rex" not in arena.missing:
            turns["SWE-ReX, until it answers"] = partial(timed, partial(swe_rex, arena), containers.remove)
    rounds = bench.rounds_or(*ROUNDS)
    with steps("sandboxes", rounds * len(turns)) as advance:
        taken = take_turns(turns, rounds, bench.seed, advance)
    return {
        "rounds": rounds,
        "create": {name: [round(create, 6) for create, _ in pairs] for name, pairs in taken.items()},
        "remove": {name: [round(remove, 6) for _, remove in pairs] for name, pairs in taken.items()},
    }


def show(data: Data) -> list[str]:
    lines = paragraph(
        "A sandbox counts as created when a command can be run in it, `docker run -d` when it returns. Ratio: over `docker run -d`",
        "and `docker rm -f`.",
    )
    for what, reference in (("create", "docker run -d"), ("remove", "docker run -d")):
        base = [[value] for value in data[what][reference]]
        rows = []
        for name, values in data[what].items():
            shown = (duration(percentile(values, share)) for share in (0.5, 0.95))
            label = "docker rm -f" if what == "remove" and name == reference else name
            rows.append([label, str(ratio([[value] for value in values], base)), *shown])
        lines += table([what, "ratio", "p50", "p95"], rows)
    return lines


SANDBOXES = Section("sandboxes", "Sandboxes", measure, show)
