"""What grows with the number of sandboxes: latency, memory, descriptors, threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from remote_env import Client, Sandbox
from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import docker, inspect
from scripts.benchmarks.figures import duration, flat, percentile, ratio, size
from scripts.benchmarks.kinds import COMMAND, docker_cli, repeat
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import Pid, commands, footprint, pss_bytes
from scripts.benchmarks.progress import Advance, steps
from scripts.benchmarks.turns import rounded, take_turns

LEVELS = (1, 50, 100, 200, 300)
QUICK_LEVELS = (1, 4)
AT_ONCE = 4  # creations
MEMORY = 128 << 20  # bytes that each may use
CALLS, ROUNDS = 20, 10
RUN: dict[str, Any] = {"shell": "sh", "idempotent": False, "check": True}


def state(pid: Pid) -> dict[str, int]:
    now = footprint(pid)
    return {"rss_bytes": now.rss_bytes, "fds": now.fds, "threads": now.threads}


def create(client: Client, image: str, count: int, advance: Advance) -> tuple[list[Sandbox], float]:
    """So many more sandboxes, and seconds for each (of the whole, several being made at once)."""

    def one(_: int) -> Sandbox:
        made = client.create_sandbox(image, memory_bytes=MEMORY)
        advance("create")
        return made

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        made = list(pool.map(one, range(count)))
    return made, (time.perf_counter() - began) / count


def level(bench: Bench, server: Pid, sandboxes: list[Sandbox]) -> Data:
    """Latency in the oldest and in the newest sandbox, and of `docker exec` beside them."""

    def last(count: int) -> list[float]:
        return rounded(repeat(partial(sandboxes[-1].run, COMMAND, **RUN))(count + 1)[1:])

    def first(count: int) -> list[float]:
        return rounded(repeat(partial(sandboxes[0].run, COMMAND, **RUN))(count + 1)[1:])

    calls = bench.pick(CALLS, 5)
    turns = {"oldest": partial(first, calls), "newest": partial(last, calls)}
    if bench.wants("docker-exec"):
        turns["docker exec"] = partial(docker_cli(bench.arena.plain, "docker exec", "sh").block, 3)
    taken = take_turns(turns, bench.rounds_or(ROUNDS, 2), bench.seed)
    return {"sandboxes": len(sandboxes), "seconds": taken, **state(server)}


def measure(bench: Bench) -> Data:
    levels = bench.pick(LEVELS, QUICK_LEVELS)
    server = bench.arena.new_server("many")
    assert server.process is not None
    pid = server.process.pid
    client = bench.arena.new_client(server)
    sandboxes: list[Sandbox] = []
    found: list[Data] = []
    with client.create_sandbox(bench.arena.image, memory_bytes=MEMORY) as warm:
        warm.run(COMMAND, check=True)
    alone = state(pid)
    with steps("many", 2 * levels[-1]) as advance:
        for count in levels:
            made, each_s = create(client, bench.arena.image, count - len(sandboxes), advance)
            sandboxes += made
            idle = state(pid)
            for sandbox in made:
                sandbox.start("sleep infinity", timeout_s=7200)
                advance("start")
            found.append({**level(bench, pid, sandboxes), "idle": idle, "create_s": round(each_s, 4)})
        sample = [str(sandbox.container_id) for sandbox in sandboxes[:20]]
        inits = [pss_bytes(int(inspect(container)["State"]["Pid"])) for container in sample]
        running = commands().items()
        shims = [pss_bytes(pid) for pid, words in running if "shim" in words[0] and any(each in words for each in sample)]
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda sandbox: sandbox.remove(), sandboxes))
        removed = (time.perf_counter() - began) / len(sandboxes)
    data: Data = {
        "levels": found, "alone": alone, "after": state(pid), "remove_s": round(removed, 4), "at_once": AT_ONCE,
        "init_bytes": percentile(inits, 0.5), "shim_bytes": percentile(shims or [0], 0.5),
    }  # fmt: skip
    if bench.wants("swe-rex") and (rex := bench.arena.attempt("swe-rex", lambda: (bench.arena.rex_runtime, bench.arena.rex)[1])):
        program = docker("top", rex.container, "-o", "pid").split()[1:]
        data["swe_rex_bytes"] = sum(pss_bytes(int(each)) for each in program)
    return data


def per_sandbox(data: Data) -> tuple[float, float]:
    """Bytes of the server's memory for each idle sandbox, and for each running execution."""
    idle = running = count = 0
    before = data["alone"]["rss_bytes"]
    for each in data["levels"]:
        idle += each["idle"]["rss_bytes"] - before
        running += each["rss_bytes"] - each["idle"]["rss_bytes"]
        before, count = each["rss_bytes"], each["sandboxes"]
    return idle / count, running / count


def _held(now: dict[str, int]) -> str:
    return f"{size(now['rss_bytes'])}, {now['fds']} descriptors, {now['threads']} threads"


def show(data: Data) -> list[str]:
    lines = paragraph(
        f"A command (`sleep`) runs in every sandbox; sandboxes are made {data['at_once']} at once. Ratio: p50 of `sandbox.run` in the",
        "newest sandbox over that with one sandbox.",
    )
    base = data["levels"][0]["seconds"]["newest"]
    rows = []
    for each in data["levels"]:
        middle = {name: duration(percentile(flat(rounds), 0.5)) for name, rounds in each["seconds"].items()}
        rows.append(
            [
                str(each["sandboxes"]), str(ratio(each["seconds"]["newest"], base)), middle["newest"], middle["oldest"],
                middle.get("docker exec", "–"), duration(each["create_s"]), size(each["rss_bytes"]), str(each["fds"]), str(each["threads"]),
            ]
        )  # fmt: skip
    header = ["sandboxes", "ratio", "newest", "oldest", "`docker exec`", "creation, each", "server's memory", "descriptors", "threads"]
    lines += table(header, rows)
    idle, running = per_sandbox(data)
    said = [
        f"The server's memory grows by {size(idle)} for each idle sandbox and {size(running)} for each running execution;",
        f"a sandbox's init takes {size(data['init_bytes'])}, the engine's shim for the container {size(data['shim_bytes'])}.",
    ]
    if "swe_rex_bytes" in data:
        said.append(f"SWE-ReX's server takes {size(data['swe_rex_bytes'])} in every container.")
    held, before = _held(data["after"]), _held(data["alone"])
    said.append(f"With all of them removed ({duration(data['remove_s'])} each) the server holds {held}; before the first: {before}.")
    return lines + paragraph(*said)


MANY = Section("many", "Growth with sandboxes", measure, show, ("sandboxes.svg",))
