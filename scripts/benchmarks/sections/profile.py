"""Where our server spends its time while it runs commands, by py-spy's samples of its Python stacks."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import NotMeasured
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import Pid
from scripts.benchmarks.progress import steps
from scripts.benchmarks.sections.throughput import WARM_S, crews

RATE = 100  # samples a second
LOADS = (1, 16)  # clients
WINDOW_S = (15.0, 2.0)
SHOWN = 15
LOOP = "Runner.run (asyncio/runners.py)"  # where the loop waits for events; and its own C code, which nobody can tell from that


def stacks(text: str, thread: Pid) -> Counter[tuple[str, ...]]:
    """Samples of one thread by stack, outermost function first, from py-spy's raw format with threads:
    `thread (ID): NAME;outer (file:line);inner (file:line) COUNT`. A process's first thread has its id."""
    found: Counter[tuple[str, ...]] = Counter()
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        first, *stack = frames.split(";")
        if first.startswith(f"thread ({thread})") and stack:
            found[tuple(_place(frame) for frame in stack)] += int(count)
    return found


def _place(frame: str) -> str:
    """`function (file:line)` without the line."""
    head, _, _ = frame.rpartition(":")
    return f"{head})" if head else frame


def itself(samples: Counter[tuple[str, ...]]) -> Counter[str]:
    """Samples by the function that was running: C code is counted with the Python function that called it."""
    found: Counter[str] = Counter()
    for stack, count in samples.items():
        found[stack[-1]] += count
    return found


def record(pid: Pid, seconds: float, path: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise NotMeasured("py-spy is not installed")
    command = [
        str(program),
        "record",
        "--pid",
        str(pid),
        "--duration",
        str(round(seconds)),
        "--rate",
        str(RATE),
        "--format",
        "raw",
        "--threads",
    ]
    return subprocess.Popen(
        [*command, "--output", str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def measure(bench: Bench) -> Data:
    arena = bench.arena
    process = arena.server.process
    assert process is not None
    window_s = bench.pick(*WINDOW_S)
    target = {"sandbox.run": [{"url": arena.server.url, "token": arena.server.token, "sandbox": arena.sandbox.id}]}
    data: Data = {"rate": RATE, "seconds": window_s, "loads": {}}
    with steps("profile", len(LOADS)) as advance:
        for clients in LOADS:
            path = arena.directory / f"stacks-{clients}"
            with crews(target, clients) as made:
                spy = arena.attempt("profile", lambda path=path: record(process.pid, window_s, path))  # type: ignore[misc]
                if spy is None:
                    break
                per_s, _ = made["sandbox.run"].turn(window_s, WARM_S)
                if spy.wait() != 0 or not path.exists():
                    arena.missing["profile"] = f"py-spy ended with {spy.returncode}"
                    break
            samples = stacks(path.read_text(), process.pid)
            own = itself(samples)
            waiting = own.pop(LOOP, 0)
            data["loads"][str(clients)] = {
                "per_s": round(per_s, 1),
                "samples": sum(own.values()),
                "waiting": waiting,
                "itself": own.most_common(SHOWN),
            }
            advance(f"{clients} clients")
    return data


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"py-spy, {data['rate']} samples a second of our server's event loop while `sandbox.run` is called; a function's share of the",
        "samples in which Python code was at work, what C code took counted with the Python function that called it.",
    )
    for clients, found in data["loads"].items():
        busy = found["samples"] / max(1, found["samples"] + found["waiting"])
        rows = [[f"`{name}`", f"{100 * count / found['samples']:.1f} %"] for name, count in found["itself"]]
        lines += paragraph(f"{clients} clients: {found['per_s']:,} a second under the profiler, {100 * busy:.0f} % of the samples at work.")
        lines += table(["function", "share"], rows)
    return lines


PROFILE = Section("profile", "Where the server's time goes", measure, show)
