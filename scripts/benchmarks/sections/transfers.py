"""How fast files go into a container and come out of it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from scripts.benchmarks.arena import Arena
from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import NotMeasured, docker
from scripts.benchmarks.figures import duration, flat, percentile, ratio, size, speed
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import footprint, reset_peak
from scripts.benchmarks.progress import steps
from scripts.benchmarks.swerex import Rex
from scripts.benchmarks.turns import take_turns

MIB = 1 << 20
SIZES = ((1, 10), (1024, 3))  # MiB, and rounds of it
QUICK_SIZES = ((1, 2), (64, 1))
REMOTE = "/tmp/remote-env-bench.bin"
PATIENCE_S = 120.0
SHM = Path("/dev/shm")


def make_file(path: Path, mib: int, seed: int) -> None:
    """Text that does not compress, so that peers that treat it as text can take it."""
    block = b64encode(random.Random(seed).randbytes(3 * MIB // 4))
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(block)


def host_directory(arena: Arena, largest_mib: int) -> Path:
    """In memory where there is room, so that the host's disk is not what is measured."""
    if SHM.is_dir() and shutil.disk_usage(SHM).free > 8 * largest_mib * MIB:
        return arena.scratch(SHM)
    return arena.scratch(arena.directory)


def timed(transfer: Callable[[], object]) -> float:
    os.sync()  # what turns before have written must not be written in this one's time
    began = time.perf_counter()
    transfer()
    return time.perf_counter() - began


def same_size(path: Path, mib: int) -> None:
    if path.stat().st_size != mib * MIB:
        raise RuntimeError(f"{path.stat().st_size} bytes came of {mib * MIB}")


def ours(arena: Arena, directory: Path, mib: int) -> dict[str, float]:
    there, back = directory / f"{mib}", directory / "back"
    taken = {"upload": timed(partial(arena.sandbox.upload, there, REMOTE))}
    taken["download"] = timed(partial(arena.sandbox.download, REMOTE, back))
    same_size(back, mib)
    back.unlink()
    arena.sandbox.remove(REMOTE)
    return taken


def docker_cp(arena: Arena, directory: Path, mib: int) -> dict[str, float]:
    there, back = directory / f"{mib}", directory / "back-docker"
    taken = {"docker cp, in": timed(partial(docker, "cp", str(there), f"{arena.plain}:{REMOTE}"))}
    taken["docker cp, out"] = timed(partial(docker, "cp", f"{arena.plain}:{REMOTE}", str(back)))
    same_size(back, mib)
    back.unlink()
    docker("exec", arena.plain, "rm", REMOTE)
    return taken


def swe_rex(arena: Arena, rex: Rex, runtime: Any, directory: Path, mib: int) -> dict[str, float]:
    from swerex.runtime.abstract import ReadFileRequest, UploadRequest

    def within(call: Any) -> Any:
        try:
            return arena.loop.wait(asyncio.wait_for(call, PATIENCE_S))
        except (asyncio.TimeoutError, TimeoutError):
            raise NotMeasured(f"no answer within {PATIENCE_S:.0f} s") from None
        except Exception as error:
            raise NotMeasured(f"{type(error).__name__}: {str(error)[:200]}") from error

    request = UploadRequest(source_path=str(directory / f"{mib}"), target_path=REMOTE)
    taken = {"SWE-ReX upload": timed(lambda: within(runtime.upload(request)))}
    taken["SWE-ReX read_file"] = timed(lambda: within(runtime.read_file(ReadFileRequest(path=REMOTE))))
    docker("exec", rex.container, "rm", REMOTE)
    return taken


def measure(bench: Bench) -> Data:
    arena = bench.arena
    sizes = bench.pick(SIZES, QUICK_SIZES)
    directory = host_directory(arena, sizes[-1][0])
    for mib, _ in sizes:
        make_file(directory / f"{mib}", mib, bench.seed)
    makers: dict[str, Callable[[int], dict[str, float]]] = {"ours": partial(ours, arena, directory)}
    if bench.wants("docker-exec"):
        makers["docker cp"] = partial(docker_cp, arena, directory)
    if bench.wants("swe-rex") and (rex := arena.attempt("swe-rex", lambda: Rex(arena.containers, arena.image, options=("-m", "8g")))):
        makers["swe-rex"] = partial(swe_rex, arena, rex, arena.loop.wait(rex.started()), directory)
    data: Data = {"sizes": [mib for mib, _ in sizes], "seconds": {}, "speed": {}, "host_directory": str(directory.parent)}
    arena.sandbox.run("true", check=True)
    reset_peak(arena.server.process)
    before = footprint(arena.server.process).rss_bytes
    with steps("transfers", sum(rounds for _, rounds in sizes) * len(makers)) as advance:
        for mib, rounds in sizes:
            turns = {name: partial(_turn, arena, name, make, mib) for name, make in makers.items()}
            for taken in take_turns(turns, rounds, bench.seed + mib, advance).values():
                for name, seconds in ((name, seconds) for each in taken for name, seconds in each.items()):
                    data["seconds"].setdefault(name, {}).setdefault(str(mib), []).append(round(seconds, 6))
                    data["speed"].setdefault(name, {}).setdefault(str(mib), []).append(round(mib * MIB / seconds))
    data["growth_bytes"] = max(0, footprint(arena.server.process).peak_bytes - before)
    return data


def _turn(arena: Arena, name: str, make: Callable[[int], dict[str, float]], mib: int) -> dict[str, float]:
    what = f"{name}, a file of {mib} MiB"
    if what in arena.missing:
        return {}  # it failed in an earlier round
    return arena.attempt(what, partial(make, mib)) or {}


def show(data: Data) -> list[str]:
    lines = paragraph(
        "Text that does not compress, to and from files of the host in memory where there is room. Ours are checked by sha256 at",
        "both ends and replace the target whole or not at all. Ratio: seconds over those of `docker cp` in the same direction.",
    )
    for mib in data["sizes"]:
        rows = []
        for into, reference in ((("upload", "docker cp, in", "SWE-ReX upload"), "docker cp, in"),
                                (("download", "docker cp, out", "SWE-ReX read_file"), "docker cp, out")):  # fmt: skip
            base = [[value] for value in data["seconds"].get(reference, {}).get(str(mib), [])]
            for name in into:
                values = [[value] for value in data["seconds"].get(name, {}).get(str(mib), [])]
                if values:
                    middle = percentile(flat(values), 0.5)
                    against = str(ratio(values, base)) if base else "–"
                    rows.append(
                        [f"**{name}**" if name in ("upload", "download") else name, against, speed(mib * MIB / middle), duration(middle)]
                    )
        lines += table([size(mib * MIB), "ratio", "speed", "p50"], rows)
    return lines + paragraph(f"Meanwhile the server's memory grew by at most {size(data['growth_bytes'])}.")


TRANSFERS = Section("transfers", "Files", measure, show)
