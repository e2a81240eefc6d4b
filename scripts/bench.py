"""How fast `true` is through remote-env and through `docker exec`, measured side by side in one run.

The kinds of call take turns, a block of each at a time, so that drift of the machine hits them alike and none is measured
with the caches that another left behind. Ratios are the result; times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from remote_env import RemoteDockerEnvironment
from tests.support.server import BUSYBOX, SMALL, Server

Call = Callable[[], object]
BLOCK = 10  # calls of one kind in a row


def milliseconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def latency(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of `rounds` calls of each kind, in blocks that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    while any(len(values) < rounds for values in taken.values()):
        for name, call in calls.items():
            call()  # the first of a block is not counted
            taken[name].extend(milliseconds(call) for _ in range(BLOCK))
    return taken


def throughput(call: Call, clients: int, seconds: float) -> float:
    """Calls a second with so many clients at once."""
    over = threading.Event()

    def client() -> int:
        done = 0
        while not over.is_set():
            call()
            done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        counts = [pool.submit(client) for _ in range(clients)]
        over.wait(seconds)
        over.set()
        total = sum(count.result() for count in counts)
    return total / (time.perf_counter() - began)


def load(url: str, token: str, sandbox: str, clients: int, seconds: float) -> float:
    """Executions a second from one client process of so many threads."""
    from remote_env import Client

    with Client(url, token) as client:
        box = client.sandbox(sandbox)

        def run() -> None:
            if box.run("true", idempotent=False).returncode != 0:
                raise RuntimeError("true failed")

        run()
        return throughput(run, clients, seconds)


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[round(share * 100) - 1]


def measure(rounds: int, seconds: float, clients: int, processes: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory) / "data")
        try:
            server.start()
            with RemoteDockerEnvironment(image=BUSYBOX, url=server.url, token=server.token, memory_bytes=SMALL) as env:
                container = str(env.sandbox.container_id)
                exec_true = ["docker", "exec", container, "sh", "-c", "true"]
                calls: dict[str, Call] = {
                    "env.execute": lambda: env.execute("true"),
                    "docker exec": lambda: subprocess.run(exec_true, check=True),
                    "fork+exec": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
                }
                latency(calls, 20)
                taken = latency(calls, rounds)
                worker = [sys.executable, __file__, "--load", server.url, str(server.data_dir / "token"), env.sandbox.id]
                worker += ["--clients", str(clients // processes), "--seconds", str(seconds)]
                workers = [subprocess.Popen(worker, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
                ours = sum(float(each.communicate()[0]) for each in workers)
                theirs = throughput(calls["docker exec"], clients, seconds)
        finally:
            server.remove_all()
    return {
        "latency_ms": {
            name: {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "p99": percentile(values, 0.99)}
            for name, values in taken.items()
        },
        "per_second": {"env.execute": ours, "docker exec": theirs},
        "clients": clients, "client_processes": processes, "rounds": rounds, "cpus": os.cpu_count(),
        "ratio": {
            "docker exec / env.execute, p50": percentile(taken["docker exec"], 0.5) / percentile(taken["env.execute"], 0.5),
            "env.execute / docker exec, per second": ours / theirs,
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind for the latency (default 200)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long throughput is measured for each kind (default 5)")
    parser.add_argument("--clients", type=int, default=16, help="clients at once (default 16)")
    parser.add_argument("--processes", type=int, default=1, help="client processes that they are spread over (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--load", nargs=3, metavar=("URL", "TOKEN_FILE", "SANDBOX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        url, token_file, sandbox = options.load
        sys.stdout.write(f"{load(url, Path(token_file).read_text().strip(), sandbox, options.clients, options.seconds)}\n")
        return
    found = measure(options.rounds, options.seconds, options.clients, options.processes)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write(f"`true` in busybox, {options.rounds} calls of each kind, taking turns, {os.cpu_count()} CPUs\n\n")
    sys.stdout.write(f"{'':14}{'p50':>10}{'p95':>10}{'p99':>10}   a second, {options.clients} clients\n")
    for name, row in found["latency_ms"].items():  # type: ignore[attr-defined]
        rate = found["per_second"].get(name)  # type: ignore[attr-defined]
        shown = "" if rate is None else f"{rate:>10.0f}"
        sys.stdout.write(f"{name:14}{row['p50']:>7.2f} ms{row['p95']:>7.2f} ms{row['p99']:>7.2f} ms   {shown}\n")
    sys.stdout.write("\n")
    for name, ratio in found["ratio"].items():  # type: ignore[attr-defined]
        sys.stdout.write(f"{name}: {ratio:.1f}\n")


if __name__ == "__main__":
    main()
