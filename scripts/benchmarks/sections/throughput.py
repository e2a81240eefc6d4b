"""How many `true` a second with several clients at once, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import NotMeasured
from scripts.benchmarks.figures import Rounds, number, percentile, ratio
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import cpu_seconds
from scripts.benchmarks.progress import steps
from scripts.benchmarks.swerex import Rex
from scripts.benchmarks.turns import order

CLIENTS = (1, 4, 16, 64)
PROCESSES = 2  # client processes; the machine's cores are shared by these, the server and the commands
APART = 16  # clients that each have a sandbox, or a container, of their own
QUICK = ("sandbox.run", "SWE-ReX execute", "docker exec")
WARM_S = 0.3
ENGINE_CALL_S = 0.04  # what a call through the engine takes it, however many come at once
THROUGH_ENGINE = {"docker-exec": "docker exec", "docker-sdk": "docker SDK exec_run", "mini-swe-agent": "mini-swe-agent execute"}
OURS = ("sandbox.run", "AsyncClient run", "session.run")


class Crew:
    """The client processes of one kind with so many clients together."""

    def __init__(self, specs: list[dict[str, Any]]) -> None:
        command = [sys.executable, "-m", "scripts.benchmarks.load"]
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) for _ in specs
        ]
        for process, spec in zip(self.processes, specs, strict=True):
            self._write(process, json.dumps(spec))
        for process in self.processes:
            self._read(process)

    @staticmethod
    def _write(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()

    @staticmethod
    def _read(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise NotMeasured(f"a client process ended with {process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def turn(self, seconds: float, warm_s: float) -> tuple[float, float]:
        """Calls a second of all together, and CPU seconds that each second cost the client processes."""
        for process in self.processes:
            self._write(process, json.dumps([seconds, warm_s]))
        answers = [self._read(process) for process in self.processes]
        return sum(each["calls"] for each in answers) / seconds, sum(each["cpu_s"] for each in answers) / (seconds + warm_s)

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()


def warm_up_s(name: str, clients: int) -> float:
    """Until all clients are under way and the first calls that began together no longer end together."""
    return WARM_S + (clients * ENGINE_CALL_S if name in THROUGH_ENGINE.values() else 0.0)


def shares(clients: int) -> list[int]:
    """Clients of each process, as even as they come."""
    processes = min(PROCESSES, clients)
    return [clients // processes + (at < clients % processes) for at in range(processes)]


def jobs(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """What a client process needs to know, by kind: one target for all clients, or one for each."""
    arena = bench.arena
    server: dict[str, Any] = {"url": arena.server.url, "token": arena.server.token}
    found: dict[str, list[dict[str, Any]]] = {name: [{**server, "sandbox": arena.sandbox.id}] for name in OURS}
    found["session.run"] = [{**server, "sandbox": arena.client.create_sandbox(arena.image).id}]  # one has room for 64 sessions
    if bench.wants("swe-rex"):
        arena.attempt("swe-rex", lambda: arena.rex_runtime)
        if "swe-rex" not in arena.missing:
            found["SWE-ReX execute"] = [{"port": arena.rex.port, "token": arena.rex.token}]
    for peer, name in THROUGH_ENGINE.items():
        if bench.wants(peer):
            found[name] = [{"container": arena.plain, "image": arena.image, "label": arena.containers.label}]
    return found


def apart(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """The same with a sandbox, or a container, for each client, as harnesses run their instances."""
    arena = bench.arena
    server: dict[str, Any] = {"url": arena.server.url, "token": arena.server.token}
    boxes = [arena.client.create_sandbox(arena.image, memory_bytes=256 << 20) for _ in range(APART)]
    found = {"sandbox.run": [{**server, "sandbox": box.id} for box in boxes]}
    if bench.wants("swe-rex") and "swe-rex" not in arena.missing:
        rexes = [Rex(arena.containers, arena.image) for _ in range(APART)]
        for rex in rexes:
            arena.loop.wait(rex.started())
        found["SWE-ReX execute"] = [{"port": rex.port, "token": rex.token} for rex in rexes]
    return found


@contextmanager
def crews(wanted: dict[str, list[dict[str, Any]]], clients: int) -> Iterator[dict[str, Crew]]:
    with ExitStack() as stack:
        made = {}
        for kind, targets in wanted.items():
            each = [targets[at % len(targets)] for at in range(clients)]
            specs, first = [], 0
            for share in shares(clients):
                specs.append({"kind": kind, "targets": each[first : first + share]})
                first += share
            made[kind] = Crew(specs)
            stack.callback(made[kind].close)
        yield made


def window(bench: Bench, crew: Crew, seconds: float, warm_s: float) -> dict[str, float]:
    """A turn: calls a second, and how many cores our server and the clients kept busy."""
    before = cpu_seconds(bench.arena.server.process)
    per_s, client_cores = crew.turn(seconds, warm_s)
    server_cores = (cpu_seconds(bench.arena.server.process) - before) / (seconds + warm_s)
    return {"per_s": round(per_s, 2), "client_cores": round(client_cores, 3), "server_cores": round(server_cores, 3)}


def measure(bench: Bench) -> Data:
    seconds, rounds = bench.pick(4.0, 1.5), bench.rounds_or(4, 1)
    levels = bench.pick(CLIENTS, (16,))
    together = {name: job for name, job in jobs(bench).items() if not bench.quick or name in QUICK}
    separate = {} if bench.quick else apart(bench)
    found: dict[str, Any] = {"together": {name: {} for name in together}, "apart": {name: {} for name in separate}}
    total = rounds * (len(levels) * len(together) + len(separate))
    with steps("throughput", total) as advance:
        for where, wanted, counts in (("together", together, levels), ("apart", separate, (APART,))):
            for clients in counts if wanted else ():
                with crews(wanted, clients) as made:
                    for names in order(list(made), rounds, bench.seed + clients):
                        for name in names:
                            windows = found[where][name].setdefault(str(clients), [])
                            windows.append(window(bench, made[name], seconds, warm_up_s(name, clients)))
                            advance(f"{name}, {clients}")
    return {"seconds": seconds, "rounds": rounds, "processes": PROCESSES, "levels": list(levels), **found}


def rates(data: Data, name: str, clients: int, where: str = "together") -> Rounds | None:
    """Calls a second by round; None where it was not measured."""
    found = data[where].get(name, {}).get(str(clients))
    return None if found is None else [[each["per_s"]] for each in found]


def _rate(values: Rounds) -> str:
    return number(percentile([value for each in values for value in each], 0.5))


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"`true` in sh, windows of {data['seconds']:g} s, {data['rounds']} of each kind in turns, clients spread over up to",
        f"{data['processes']} processes. A call counts when it ends within the window. Ratio: `sandbox.run` over the kind.",
    )
    levels = data["levels"]
    header = ["all in one container", *(f"ratio, {level}" for level in levels), *(f"a second, {level}" for level in levels)]
    rows = []
    for name in data["together"]:
        cells, absolute = [], []
        for level in levels:
            mine, reference = rates(data, name, level), rates(data, "sandbox.run", level)
            assert mine is not None
            assert reference is not None
            cells.append(str(ratio(reference, mine)))
            absolute.append(_rate(mine))
        rows.append([f"**{name}**" if name in OURS else name, *cells, *absolute])
    lines += table(header, rows)
    if data["apart"]:
        reference = rates(data, "sandbox.run", APART, "apart")
        assert reference is not None
        rows = []
        for name in data["apart"]:
            mine = rates(data, name, APART, "apart")
            assert mine is not None
            rows.append([name, str(ratio(reference, mine)), _rate(mine)])
        lines += table([f"{APART} clients, a container for each", "ratio", "a second"], rows)
    rows = []
    for level in levels:
        found = data["together"]["sandbox.run"][str(level)]
        cores = (percentile([each[side] for each in found], 0.5) for side in ("server_cores", "client_cores"))
        rows.append([f"{level} clients", *map(number, cores)])
    return lines + table(["cores kept busy by `sandbox.run`", "server", "client processes"], rows)


THROUGHPUT = Section("throughput", "Throughput", measure, show, ("throughput.svg",))
