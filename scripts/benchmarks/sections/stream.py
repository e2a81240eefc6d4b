"""How soon the first byte of a running command's output is in the caller's hands."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial

from remote_env.events import OutputPiece
from scripts.benchmarks.arena import Arena
from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.figures import duration, flat, percentile, ratio
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.progress import steps
from scripts.benchmarks.turns import rounded, take_turns

COMMAND = "echo first; sleep 0.05"  # it goes on: what comes early comes from a stream
CALLS = (5, 2)
ROUNDS = (20, 3)


def ours(arena: Arena) -> float:
    began = time.perf_counter()
    first = 0.0
    for event in arena.sandbox.stream(COMMAND, shell="sh", idempotent=False):
        if not first and isinstance(event, OutputPiece):
            first = time.perf_counter() - began
    return first


def docker_cli(arena: Arena) -> float:
    began = time.perf_counter()
    argv = ["docker", "exec", arena.plain, "sh", "-c", COMMAND]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0) as process:
        process.stdout.read(1)  # type: ignore[union-attr]
        return time.perf_counter() - began


def docker_sdk(arena: Arena) -> float:
    began = time.perf_counter()
    _, chunks = arena.sdk_container.exec_run(["sh", "-c", COMMAND], stream=True)
    next(chunks)
    first = time.perf_counter() - began
    for _ in chunks:
        continue
    return first


def measure(bench: Bench) -> Data:
    arena = bench.arena
    calls: dict[str, Callable[[], float]] = {"sandbox.stream": partial(ours, arena)}
    if bench.wants("docker-exec"):
        calls["docker exec"] = partial(docker_cli, arena)
    if bench.wants("docker-sdk"):
        calls["docker SDK exec_run, stream"] = partial(docker_sdk, arena)
    count, rounds = bench.pick(*CALLS), bench.rounds_or(*ROUNDS)

    def block(call: Callable[[], float]) -> list[float]:
        return rounded(call() for _ in range(count + 1))[1:]

    turns = {name: partial(block, call) for name, call in calls.items()}
    with steps("stream", rounds * len(turns)) as advance:
        return {"command": COMMAND, "seconds": take_turns(turns, rounds, bench.seed, advance)}


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"`{data['command']}`, from the call to the first byte. Ratio: the kind's p50 over that of `sandbox.stream`. SWE-ReX and",
        "mini-swe-agent show nothing before a command's end.",
    )
    reference = data["seconds"]["sandbox.stream"]
    rows = []
    for name, rounds in data["seconds"].items():
        shown = (duration(percentile(flat(rounds), share)) for share in (0.5, 0.95))
        rows.append([name, str(ratio(rounds, reference)), *shown])
    return lines + table(["first byte", "ratio", "p50", "p95"], rows)


STREAM = Section("stream", "First byte of a stream", measure, show)
