"""What one `true` costs in CPU time, and where: the caller, what serves it, and the container's own processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import inspect
from scripts.benchmarks.figures import duration, percentile, ratio
from scripts.benchmarks.kinds import Block, ours, peers
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import Cpu, Pid, cpu, running
from scripts.benchmarks.progress import steps
from scripts.benchmarks.turns import take_turns

CALLS = {"cheap": (250, 50), "dear": (15, 3), "dearest": (6, 1)}  # in a turn: full run, quick one
ROUNDS = (6, 1)
ENGINE = ("dockerd", "containerd", "containerd-shim-runc-v2", "docker-proxy")
KINDS = ("sandbox.run", "session.run", "AsyncClient run", "env.execute", "SWE-ReX execute", "docker exec", "docker SDK exec_run")
Costs = dict[str, list[float]]
"""User and system seconds a call, by who they were spent by."""


@dataclass(frozen=True)
class Meter:
    """CPU time of everybody who takes part, by process."""

    server: Pid
    containers: tuple[Pid, ...]

    def read(self) -> dict[str, dict[Pid, Cpu]]:
        own = os.times()
        return {
            "caller": {0: Cpu(own.user + own.children_user, own.system + own.children_system)},
            "server": {self.server: cpu(self.server)},
            "in the container": {pid: cpu(pid, children=True) for pid in self.containers},
            "engine": {pid: cost for pid in running(*ENGINE) if (cost := cpu_if_there(pid))},
        }


def cpu_if_there(pid: Pid) -> Cpu | None:
    """None for one that has ended meanwhile: other people's containers come and go."""
    try:
        return cpu(pid, children=True)
    except (FileNotFoundError, ProcessLookupError):
        return None


def spent(before: dict[str, dict[Pid, Cpu]], after: dict[str, dict[Pid, Cpu]], calls: int) -> Costs:
    """Seconds of each a call. A process that began in between counts whole, one that ended counts in its parent."""
    found = {}
    for who, processes in after.items():
        total = Cpu(0.0, 0.0)
        for pid, now in processes.items():
            total += now - before[who].get(pid, Cpu(0.0, 0.0))
        found[who] = [round(total.user_s / calls, 8), round(total.system_s / calls, 8)]
    return found


def turn(meter: Meter, block: Block, calls: int) -> Costs:
    block(2)
    before = meter.read()
    block(calls)
    return spent(before, meter.read(), calls)


def measure(bench: Bench) -> Data:
    arena = bench.arena
    kinds = [kind for kind in [*ours(arena), *peers(arena, bench.peers - {"docker-ssh", "mini-swe-agent"})] if kind.name in KINDS]
    # A `docker exec` is no child of its container's: what it costs the engine's shim reaps.
    containers = [str(arena.sandbox.container_id), str(arena.environment.container_id)]
    if any(kind.name.startswith("SWE-ReX") for kind in kinds):
        containers.append(arena.rex.container)
    process = arena.server.process
    assert process is not None
    meter = Meter(process.pid, tuple(int(inspect(container)["State"]["Pid"]) for container in containers))
    turns: dict[str, Callable[[], Costs]] = {
        kind.name: partial(turn, meter, kind.block, bench.pick(*CALLS[kind.cost])) for kind in kinds if kind.shell == "sh"
    }
    rounds = bench.rounds_or(*ROUNDS)
    with steps("cost", rounds * len(turns)) as advance:
        return {"rounds": rounds, "costs": take_turns(turns, rounds, bench.seed, advance)}


def show(data: Data) -> list[str]:
    lines = paragraph(
        "User and system seconds together, from /proc, one call after the other in sh. “in the container”: its processes with all that",
        "they started, the shell and for SWE-ReX its server too; for `docker exec` these are counted with the engine. Ratio: total over",
        "that of `sandbox.run`.",
    )

    def totals(name: str) -> list[list[float]]:
        return [[sum(user + system for user, system in costs.values())] for costs in data["costs"][name]]

    reference = totals("sandbox.run")
    rows = []
    for name, rounds in data["costs"].items():
        each = [duration(percentile([sum(costs[who]) for costs in rounds], 0.5)) for who in rounds[0]]
        total = totals(name)
        rows.append([name, str(ratio(total, reference)), duration(percentile([value for [value] in total], 0.5)), *each])
    lines += table(["CPU time a call", "ratio", "total", *next(iter(data["costs"].values()))[0]], rows)
    split = [percentile([costs["server"][at] for costs in data["costs"]["sandbox.run"]], 0.5) for at in (0, 1)]
    return lines + paragraph(f"Our server's part of `sandbox.run`: {duration(split[0])} user, {duration(split[1])} system.")


COST = Section("cost", "CPU time", measure, show)
