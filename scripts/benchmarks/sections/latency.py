"""How long one `true` takes, caller to caller."""

from __future__ import annotations

from functools import partial

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.figures import Rounds, duration, flat, percentile, ratio
from scripts.benchmarks.kinds import COMMAND, Kind, floors, ours, peers
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.progress import steps
from scripts.benchmarks.turns import rounded, take_turns

BLOCKS = {"cheap": (40, 10), "dear": (8, 3), "dearest": (3, 1)}  # calls in a turn: full run, quick one
ROUNDS = (50, 3)
SHARES = (0.5, 0.95, 0.99)


def turn(kind: Kind, count: int) -> list[float]:
    """The first call of a block finds the caches cold that the kind before left, and is not counted."""
    return rounded(kind.block(count + 1)[1:])


def measure(bench: Bench) -> Data:
    arena = bench.arena
    kinds = {kind.key: kind for kind in [*ours(arena), *peers(arena, bench.peers), *floors(arena)]}
    rounds = bench.rounds_or(*ROUNDS)
    turns = {key: partial(turn, kind, bench.pick(*BLOCKS[kind.cost])) for key, kind in kinds.items()}
    take_turns(turns, 1, bench.seed)  # everything once, uncounted
    with steps("latency", rounds * len(kinds)) as advance:
        taken = take_turns(turns, rounds, bench.seed, advance)
    return {
        "command": COMMAND,
        "rounds": rounds,
        "kinds": [
            {"name": kind.name, "group": kind.group, "shell": kind.shell, "seconds": taken[key]} for key, kind in kinds.items()
        ],
    }  # fmt: skip


def samples(data: Data, name: str, shell: str = "sh") -> Rounds | None:
    """Seconds of a kind by round; None where it was not measured."""
    for kind in data["kinds"]:
        if (kind["name"], kind["shell"]) == (name, shell):
            found: Rounds = kind["seconds"]
            return found
    return None


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"`{data['command']}`, {data['rounds']} rounds, in each of which every kind has one turn, in an order drawn anew.",
        "The ratio is the kind's p50 over that of `sandbox.run` with the same shell, with the 95 % interval of a bootstrap over rounds.",
        "“sh” is the image's dash.",
    )
    for shell in ("sh", "bash"):
        reference = samples(data, "sandbox.run", shell)
        if reference is None:
            continue
        rows = []
        for kind in data["kinds"]:
            if kind["shell"] not in (shell, ""):
                continue
            values = flat(kind["seconds"])
            against = str(ratio(kind["seconds"], reference))
            name = f"**{kind['name']}**" if kind["group"] == "ours" else kind["name"]
            rows.append([name, against, *(duration(percentile(values, share)) for share in SHARES), str(len(values))])
        rows.sort(key=lambda row: float(row[1].split()[0].replace(",", "")))
        lines += table([f"shell: {shell}", "ratio", "p50", "p95", "p99", "calls"], rows)
    return lines


LATENCY = Section("latency", "Latency", measure, show, ("latency.svg",))
