"""How fast output comes: into the server's spool, from there to a caller, and end to end beside the peers."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remote_env import Sandbox
from remote_env.execution import Execution
from remote_env.protocol import EPOCH_HEADER
from scripts.benchmarks.arena import Arena
from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import NotMeasured
from scripts.benchmarks.figures import duration, flat, percentile, ratio, size, speed
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import footprint, reset_peak
from scripts.benchmarks.progress import steps
from scripts.benchmarks.swerex import Rex
from scripts.benchmarks.turns import take_turns

MIB = 1 << 20
SIZES = ((1, 20), (100, 5), (1024, 3))  # MiB, and rounds of it
QUICK_SIZES = ((1, 3), (32, 1))
FILE = "/tmp/remote-env-bench.txt"  # 1 MiB of text, that `cat` is given as often as it takes: hardly slower than the pipe itself
TEXT = (b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n" * (MIB // 64))[:MIB]
KEEP_ALL = 2 << 30  # bytes
PATIENCE_S = 120.0
SHM = Path("/dev/shm")
SWE_REX_MEMORY = "8g"  # it holds an output several times over
Timed = dict[str, float]
"""Seconds, by what took them."""


def command(mib: int) -> str:
    return f"cat $(yes {FILE} | head -n {mib})"


def check(count: int, mib: int) -> None:
    if count != mib * MIB:
        raise RuntimeError(f"{count} bytes came of {mib * MIB}")


def read_raw(arena: Arena, execution: Execution) -> int:
    """Reads GET …/output as fast as Python can, and keeps nothing. Bytes."""
    server = arena.server
    connection = http.client.HTTPConnection(urlsplit(server.url).hostname or "", server.port)
    headers = {"Authorization": f"Bearer {server.token}", EPOCH_HEADER: str(execution.epoch)}
    try:
        connection.request("GET", f"/v1/executions/{execution.id}/output", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"GET …/output was answered {answer.status}")
        into, total = bytearray(MIB), 0
        while count := answer.readinto(into):
            total += count
        return total
    finally:
        connection.close()


def ours(arena: Arena, mib: int) -> Timed:
    """One command whose output is kept whole, and then fetched in two ways."""
    process = arena.server.process
    reset_peak(process)
    before = footprint(process).rss_bytes
    began = time.perf_counter()
    execution = arena.sandbox.run(command(mib), shell="sh", idempotent=False, check=True, output_limit_bytes=KEEP_ALL)
    ran = time.perf_counter()
    check(len(execution.output()), mib)
    fetched = time.perf_counter()
    check(read_raw(arena, execution), mib)
    read = time.perf_counter()
    return {
        "spool, all kept": ran - began,
        "client.output()": fetched - ran,
        "raw reader": read - fetched,
        "sandbox.run and output()": fetched - began,
        "growth_bytes": float(max(0, footprint(process).peak_bytes - before)),
    }


def capped(arena: Arena, mib: int) -> Timed:
    began = time.perf_counter()
    arena.sandbox.run(command(mib), shell="sh", idempotent=False, check=True)
    return {"spool, 64 MiB kept": time.perf_counter() - began}


def in_memory(sandbox: Sandbox, mib: int) -> Timed:
    """What a disk adds nothing to: the spool lies in memory."""
    began = time.perf_counter()
    sandbox.run(command(mib), shell="sh", idempotent=False, check=True, output_limit_bytes=KEEP_ALL)
    return {"spool in memory, all kept": time.perf_counter() - began}


def disk(arena: Arena, mib: int) -> Timed:
    """The least that keeping an output takes: its bytes into a file beside the spool, and their sha256."""
    path = arena.directory / "plain"
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(mib):
            file.write(TEXT)
    written = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(mib):
        digest.update(TEXT)
    taken = {"a file on the spool's disk": written - began, "its sha256": time.perf_counter() - written}
    path.unlink()
    return taken


def pipe(arena: Arena, mib: int) -> Timed:
    seconds, total = arena.inside.read(["sh", "-c", command(mib)])
    check(total, mib)
    return {"a pipe inside the container": seconds}


def docker_cli(arena: Arena, mib: int) -> Timed:
    began = time.perf_counter()
    argv = ["docker", "exec", arena.plain, "sh", "-c", command(mib)]
    into, total = bytearray(MIB), 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0) as process:
        while count := process.stdout.readinto(into):  # type: ignore[union-attr]
            total += count
    taken = time.perf_counter() - began
    check(total, mib)
    return {"docker exec": taken}


def docker_sdk(arena: Arena, mib: int) -> Timed:
    began = time.perf_counter()
    _, chunks = arena.sdk_container.exec_run(["sh", "-c", command(mib)], stream=True)
    total = sum(map(len, chunks))
    taken = time.perf_counter() - began
    check(total, mib)
    return {"docker SDK exec_run, stream": taken}


def mini_swe_agent(environment: Any, mib: int) -> Timed:
    began = time.perf_counter()
    answer = environment.execute({"command": command(mib)}, timeout=int(PATIENCE_S))
    taken = time.perf_counter() - began
    check(len(answer["output"]), mib)
    return {"mini-swe-agent execute": taken}


def swe_rex(arena: Arena, runtime: Any, mib: int) -> Timed:
    from swerex.runtime.abstract import Command

    began = time.perf_counter()
    call = runtime.execute(Command(command=command(mib), shell=True, check=True))
    try:
        answer = arena.loop.wait(asyncio.wait_for(call, PATIENCE_S))
    except (asyncio.TimeoutError, TimeoutError):
        raise NotMeasured(f"no answer within {PATIENCE_S:.0f} s") from None
    except Exception as error:
        raise NotMeasured(f"{type(error).__name__}: {str(error)[:200]}") from error
    taken = time.perf_counter() - began
    check(len(answer.stdout), mib)
    return {"SWE-ReX execute": taken}


def kinds(bench: Bench) -> dict[str, Callable[[int], Timed]]:
    arena = bench.arena
    arena.sandbox.write(FILE, TEXT)
    arena.put(arena.plain, FILE, TEXT)
    found: dict[str, Callable[[int], Timed]] = {
        "ours": partial(ours, arena),
        "capped": partial(capped, arena),
        "pipe": partial(pipe, arena),
    }
    found["disk"] = partial(disk, arena)
    largest = bench.pick(SIZES, QUICK_SIZES)[-1][0] * MIB
    if SHM.is_dir() and shutil.disk_usage(SHM).free > 8 * largest:
        server = arena.new_server("spool-in-memory", directory=arena.scratch(SHM))
        sandbox = arena.new_client(server).create_sandbox(arena.image)
        sandbox.write(FILE, TEXT)
        found["in memory"] = partial(in_memory, sandbox)
    if bench.wants("docker-exec"):
        found["docker exec"] = partial(docker_cli, arena)
    if bench.wants("docker-sdk"):
        found["docker SDK"] = partial(docker_sdk, arena)
    if bench.wants("mini-swe-agent") and (environment := arena.attempt("mini-swe-agent", lambda: arena.mini_environment("sh"))):
        arena.put(environment.container_id, FILE, TEXT)
        found["mini-swe-agent"] = partial(mini_swe_agent, environment)
    if bench.wants("swe-rex") and (
        rex := arena.attempt("swe-rex", lambda: Rex(arena.containers, arena.image, options=("-m", SWE_REX_MEMORY)))
    ):
        runtime = arena.loop.wait(rex.started())
        arena.put(rex.container, FILE, TEXT)
        found["swe-rex"] = partial(swe_rex, arena, runtime)
    return found


def measure(bench: Bench) -> Data:
    sizes = bench.pick(SIZES, QUICK_SIZES)
    makers = kinds(bench)
    data: Data = {"sizes": [mib for mib, _ in sizes], "seconds": {}, "speed": {}, "growth_bytes": []}
    with steps("output", sum(rounds for _, rounds in sizes) * len(makers)) as advance:
        for mib, rounds in sizes:

            def turn(name: str, mib: int = mib) -> Timed:
                found = bench.arena.attempt(f"{name}, {mib} MiB of output", partial(makers[name], mib))
                if found is None:
                    makers.pop(name)  # it would only go on failing
                return found or {}

            turns = {name: partial(lambda name: turn(name) if name in makers else {}, name) for name in list(makers)}
            for taken in take_turns(turns, rounds, bench.seed + mib, advance).values():
                for timed in taken:
                    _note(data, timed, mib, largest=mib == sizes[-1][0])
    return data


def _note(data: Data, timed: Timed, mib: int, *, largest: bool) -> None:
    for name, value in timed.items():
        if name == "growth_bytes":
            if largest:
                data["growth_bytes"].append(value)
            continue
        data["seconds"].setdefault(name, {}).setdefault(str(mib), []).append(round(value, 6))
        data["speed"].setdefault(name, {}).setdefault(str(mib), []).append(round(mib * MIB / value))


REFERENCE = "sandbox.run and output()"


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"`{command(1024)}`, text from the page cache. Ratio: seconds over those of `{REFERENCE}`, which has all bytes in the",
        "caller's memory, checked by their sha256. “raw reader” and `client.output()` fetch what the spool holds already.",
    )
    for mib in data["sizes"]:
        reference = [[value] for value in data["seconds"][REFERENCE][str(mib)]]
        rows = []
        for name, by_size in data["seconds"].items():
            values = [[value] for value in by_size.get(str(mib), [])]
            if values:
                middle = percentile(flat(values), 0.5)
                rows.append((middle, [name, str(ratio(values, reference)), speed(mib * MIB / middle), duration(middle)]))
        lines += table([size(mib * MIB), "ratio", "speed", "p50"], (row for _, row in sorted(rows)))
    grown = data["growth_bytes"]
    return lines + paragraph(f"Meanwhile the server's memory grew by at most {size(max(grown))} (peak of VmHWM over VmRSS before).")


OUTPUT = Section("output", "Output", measure, show)
