"""How fast `true` is through remote-env, `docker exec` and SWE-ReX, measured side by side in one run.

The kinds of call take turns, a block of each at a time, so that drift of the machine hits them alike and none is measured
with the caches that another left behind. Ratios are the result; times depend on the machine. All have the same image's bash
or sh, but SWE-ReX's server and `fork+exec`, which are ordinary processes of the host: a container in between would slow them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).parents[1]))

from remote_env import RemoteDockerEnvironment
from tests.support.server import SANDBOX, SMALL, Server, free_port

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
            if box.run("true", shell="sh", idempotent=False).returncode != 0:
                raise RuntimeError("true failed")

        run()
        return throughput(run, clients, seconds)


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[round(share * 100) - 1]


@contextmanager
def swe_rex() -> Iterator[dict[str, Call]]:
    """SWE-ReX's own server and client: `execute`, and `run_in_session` of one bash session."""
    from swerex.runtime.abstract import BashAction, Command, CreateBashSessionRequest
    from swerex.runtime.remote import RemoteRuntime

    port, token = free_port(), secrets.token_hex(16)
    program = [str(Path(sys.executable).with_name("swerex-remote")), "--host", "127.0.0.1", "--port", str(port), "--auth-token", token]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(program, env=os.environ | {"TERM": "dumb"}, **quiet)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="swe-rex", daemon=True)
    thread.start()

    def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    async def connect() -> RemoteRuntime:
        return RemoteRuntime(host="http://127.0.0.1", port=port, auth_token=token)

    try:
        runtime = wait(connect())
        wait(runtime.wait_until_alive(timeout=60.0))
        wait(runtime.create_session(CreateBashSessionRequest(startup_timeout=10.0)))
        yield {
            "swe-rex execute": lambda: wait(runtime.execute(Command(command="true", shell=True, check=True))),
            "swe-rex run_in_session": lambda: wait(runtime.run_in_session(BashAction(command="true", check="raise"))),
        }
    finally:
        process.kill()
        process.wait()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure(rounds: int, seconds: float, clients: int, processes: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(Path(directory) / "data")
        try:
            server.start()
            options: dict[str, Any] = {"url": server.url, "token": server.token, "memory_bytes": SMALL}
            with RemoteDockerEnvironment(image=SANDBOX, **options) as env, swe_rex() as theirs, requests.Session() as bare:
                container = str(env.sandbox.container_id)
                exec_true = ["docker", "exec", container, "sh", "-c", "true"]
                session = env.sandbox.session()
                calls: dict[str, Call] = {
                    "bare round trip": lambda: bare.get(f"{server.url}/health").content,
                    "session.run": lambda: session.run("true", check=True),
                    "sandbox.run": lambda: env.sandbox.run("true", shell="sh", idempotent=False, check=True),
                    **theirs,
                    "docker exec": lambda: subprocess.run(exec_true, check=True),
                    "fork+exec": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
                }
                latency(calls, 20)
                taken = latency(calls, rounds)
                worker = [sys.executable, __file__, "--load", server.url, str(server.data_dir / "token"), env.sandbox.id]
                worker += ["--clients", str(clients // processes), "--seconds", str(seconds)]
                workers = [subprocess.Popen(worker, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
                rates = {"sandbox.run": sum(float(each.communicate()[0]) for each in workers)}
                for name in ("swe-rex execute", "docker exec"):
                    rates[name] = throughput(calls[name], clients, seconds)
        finally:
            server.remove_all()
    p50 = {name: percentile(values, 0.5) for name, values in taken.items()}
    return {
        "latency_ms": {
            name: {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "p99": percentile(values, 0.99)}
            for name, values in taken.items()
        },
        "per_second": rates,
        "clients": clients, "client_processes": processes, "rounds": rounds, "cpus": os.cpu_count(),
        "ratio": {
            "session.run / bare round trip, p50": p50["session.run"] / p50["bare round trip"],
            "swe-rex run_in_session / session.run, p50": p50["swe-rex run_in_session"] / p50["session.run"],
            "swe-rex execute / sandbox.run, p50": p50["swe-rex execute"] / p50["sandbox.run"],
            "docker exec / sandbox.run, p50": p50["docker exec"] / p50["sandbox.run"],
            "sandbox.run / swe-rex execute, per second": rates["sandbox.run"] / rates["swe-rex execute"],
            "sandbox.run / docker exec, per second": rates["sandbox.run"] / rates["docker exec"],
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
    sys.stdout.write(f"`true`, {options.rounds} calls of each kind, taking turns, {os.cpu_count()} CPUs\n\n")
    sys.stdout.write(f"{'':24}{'p50':>10}{'p95':>10}{'p99':>10}   a second, {options.clients} clients\n")
    for name, row in found["latency_ms"].items():  # type: ignore[attr-defined]
        rate = found["per_second"].get(name)  # type: ignore[attr-defined]
        shown = "" if rate is None else f"{rate:>10.0f}"
        sys.stdout.write(f"{name:24}{row['p50']:>7.2f} ms{row['p95']:>7.2f} ms{row['p99']:>7.2f} ms   {shown}\n")
    sys.stdout.write("\n")
    for name, ratio in found["ratio"].items():  # type: ignore[attr-defined]
        sys.stdout.write(f"{name}: {ratio:.1f}\n")


if __name__ == "__main__":
    main()
