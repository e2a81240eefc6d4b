"""Whether a long past makes a server slower: servers with journals of different lengths take turns."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.figures import Rounds, duration, flat, percentile, ratio, size
from scripts.benchmarks.kinds import COMMAND, repeat
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import footprint
from scripts.benchmarks.progress import steps
from scripts.benchmarks.turns import rounded, take_turns
from tests.support.history import fill

PASTS = (0, 10_000, 100_000, 1_000_000)  # finished executions
QUICK_PASTS = (0, 20_000)
CALLS, ROUNDS = 40, 50
RUN: dict[str, Any] = {"shell": "sh", "idempotent": False, "check": True}


def measure(bench: Bench) -> Data:
    arena, pasts = bench.arena, bench.pick(PASTS, QUICK_PASTS)
    facts, turns = {}, {}
    calls, rounds = bench.pick(CALLS, 10), bench.rounds_or(ROUNDS, 4)

    def turn(run: Any) -> list[float]:
        return rounded(repeat(run)(calls + 1)[1:])

    with steps("history", len(pasts) * (rounds + 1)) as advance:
        for past in pasts:
            server = arena.new_server(f"past-{past}", start=False)
            fill(server.data_dir, past)
            began = time.perf_counter()
            server.start()
            started_s = time.perf_counter() - began
            sandbox = arena.new_client(server).create_sandbox(arena.image)
            turns[str(past)] = partial(turn, partial(sandbox.run, COMMAND, **RUN))
            journal = sum(file.stat().st_size for file in server.data_dir.glob("journal.sqlite3*"))
            facts[str(past)] = {"start_s": round(started_s, 3), "journal_bytes": journal, "rss_bytes": footprint(server.process).rss_bytes}
            advance(f"{past} executions")
        take_turns(turns, 1, bench.seed)
        return {"pasts": list(pasts), "facts": facts, "seconds": take_turns(turns, rounds, bench.seed, advance)}


def ends(data: Data) -> tuple[Rounds, Rounds]:
    """Seconds with the longest past, and with none."""
    seconds: dict[str, Rounds] = data["seconds"]
    return seconds[str(data["pasts"][-1])], seconds[str(data["pasts"][0])]


def show(data: Data) -> list[str]:
    lines = paragraph(
        "One server for each length, side by side, each with one sandbox. Ratio: p50 of `sandbox.run` over that with an empty journal."
    )
    reference = ends(data)[1]
    rows = []
    for past in data["pasts"]:
        values, fact = data["seconds"][str(past)], data["facts"][str(past)]
        shown = (duration(percentile(flat(values), share)) for share in (0.5, 0.95, 0.99))
        about = (size(fact["journal_bytes"]), size(fact["rss_bytes"]), duration(fact["start_s"]))
        rows.append([f"{past:,}", str(ratio(values, reference)), *shown, *about])
    return lines + table(["executions", "ratio", "p50", "p95", "p99", "journal", "server's memory", "its start"], rows)


HISTORY = Section("history", "Growth with history", measure, show, ("history.svg",))
