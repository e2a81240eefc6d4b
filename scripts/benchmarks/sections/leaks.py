"""Whether anything is left behind by commands: memory, descriptors, threads and files over very many of them."""

from __future__ import annotations

from scripts.benchmarks.bench import Bench, Data, Section
from scripts.benchmarks.engine import inspect
from scripts.benchmarks.figures import number, percentile, size, slope
from scripts.benchmarks.markdown import paragraph, table
from scripts.benchmarks.processes import footprint
from scripts.benchmarks.progress import steps
from scripts.benchmarks.sections.throughput import WARM_S, crews

EXECUTIONS = (100_000, 1_000)
CLIENTS = 16
WINDOW_S = (3.0, 0.5)
HOLDS = {"rss_bytes": "server's memory", "fds": "descriptors", "threads": "threads", "spool_files": "files in the spool",
         "init_rss_bytes": "init's memory", "init_fds": "init's descriptors"}  # fmt: skip


def measure(bench: Bench) -> Data:
    wanted, window_s = bench.pick(*EXECUTIONS), bench.pick(*WINDOW_S)
    arena = bench.arena
    server = arena.new_server("leaks")
    sandbox = arena.new_client(server).create_sandbox(arena.image)
    init = int(inspect(str(sandbox.container_id))["State"]["Pid"])
    spool = server.data_dir / "spool"
    points: list[dict[str, float]] = []

    def sample(done: int, per_s: float) -> None:
        now, inside = footprint(server.process), footprint(init)
        points.append(
            {
                "executions": done, "per_s": round(per_s, 1), "rss_bytes": now.rss_bytes, "fds": now.fds, "threads": now.threads,
                "spool_files": sum(1 for file in spool.rglob("*") if file.is_file()), "init_rss_bytes": inside.rss_bytes,
                "init_fds": inside.fds, "journal_bytes": sum(file.stat().st_size for file in server.data_dir.glob("journal.sqlite3*")),
            }
        )  # fmt: skip

    target = {"sandbox.run": [{"url": server.url, "token": server.token, "sandbox": sandbox.id}]}
    with steps("leaks", wanted) as advance, crews(target, CLIENTS) as made:
        done = 0
        while done < wanted:
            per_s, _ = made["sandbox.run"].turn(window_s, WARM_S)
            calls = round(per_s * window_s)
            for _ in range(min(calls, wanted - done)):
                advance("executions")
            done += calls
            sample(done, per_s)
    return {"points": points, "clients": CLIENTS}


def growth(data: Data, what: str) -> float:
    """How much of it 100,000 executions add, by the second half of the run: the first fills caches and pools."""
    points = data["points"][len(data["points"]) // 2 :]
    return slope([(point["executions"], point[what]) for point in points]) * 100_000


def show(data: Data) -> list[str]:
    first, last = data["points"][0], data["points"][-1]
    lines = paragraph(
        f"{last['executions']:,} executions by {data['clients']} clients in one sandbox. The last column is a least-squares fit over the",
        "second half.",
    )
    rows = []
    for what, name in HOLDS.items():
        shown = size if what.endswith("bytes") else number
        rows.append([name, shown(first[what]), shown(last[what]), shown(growth(data, what))])
    lines += table(["", f"after {first['executions']:,}", f"after {last['executions']:,}", "growth in 100,000"], rows)
    rate = [percentile([point["per_s"] for point in part], 0.5) for part in (data["points"][:5], data["points"][-5:])]
    each = (last["journal_bytes"] - first["journal_bytes"]) / max(1, last["executions"] - first["executions"])
    return lines + paragraph(
        f"{number(rate[0])} a second at the beginning, {number(rate[1])} at the end. The journal keeps {size(each)} of each until its",
        "retention is over.",
    )


LEAKS = Section("leaks", "Over very many executions", measure, show, ("leaks.svg",))
