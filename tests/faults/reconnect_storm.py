"""Kills a server that a thousand clients are connected to, starts it again, and tells how they came back.

    python -m tests.faults.reconnect_storm [--clients 1000] [--processes 4] [--outage 2.0]

Each client has a connection, a heartbeat and a link of its own, as a thousand programs on other machines would. (Clients of one
process share those; here each comes with a token file of its own, which makes it another tenant.)
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from remote_env import Client, Timings
from tests.support.server import Server

LISTEN = "0A"  # as /proc/net/tcp writes it
WINDOW_S = 0.1
PATIENCE_S = 120.0  # until every client is connected


@dataclass(frozen=True)
class Storm:
    """How it went. Seconds are counted from the moment at which the new server answered for the first time."""

    clients: int
    connected_again_s: list[float]  # of each client, sorted; those that were faster than our own look are 0
    most_at_once: int  # that were connected again within the same 100 ms
    most_waiting: int  # for the server to accept their connection, at one moment
    failures: int  # missed beats and closed connections, of all clients

    def percentile(self, share: float) -> float:
        """0.99: this many seconds after the restart, 99 of 100 clients were connected again."""
        return self.connected_again_s[min(len(self.connected_again_s) - 1, int(share * len(self.connected_again_s)))]


class Gauge:
    """Looks at the kernel's list of the server's sockets, again and again: how many connections wait to be accepted."""

    def __init__(self, port: int) -> None:
        self.most_waiting = 0
        self._port = f":{port:04X}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
                _, local, _, state, queues, *_ = line.split()
                if state == LISTEN and local.endswith(self._port):
                    self.most_waiting = max(self.most_waiting, int(queues.partition(":")[2], 16))


def storm(server: Server, clients: int, processes: int, *, outage_s: float, scale: float = 1.0) -> Storm:
    """Runs it against a server that was started; it runs again afterwards. `scale`: of the clients' timings."""
    with tempfile.TemporaryDirectory() as folder:
        share = [clients // processes + (number < clients % processes) for number in range(processes)]
        command = [sys.executable, "-m", "tests.faults.reconnect_storm", "--url", server.url, "--scale", str(scale)]
        token = str(server.data_dir / "token")
        workers = [
            subprocess.Popen(
                [*command, "--token", token, "--folder", f"{folder}/{number}", "--worker", str(count)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            )
            for number, count in enumerate(share)
        ]  # fmt: skip
        try:
            for worker in workers:
                _said(worker)  # that all of its clients are connected
            server.kill()
            time.sleep(outage_s)
            gauge = Gauge(server.port)
            try:
                server.start()
                up_at = time.time()
                for worker in workers:
                    _tell(worker)
                told = [_said(worker) for worker in workers]
            finally:
                gauge.close()
        finally:
            for worker in workers:
                worker.stdin.close()  # type: ignore[union-attr]
                worker.wait()
                worker.stdout.close()  # type: ignore[union-attr]
    times = sorted(at for each in told for at in each["connected_at"])
    most_at_once = max(bisect_right(times, at + WINDOW_S) - number for number, at in enumerate(times))
    back = [max(0.0, at - up_at) for at in times]
    return Storm(clients, back, most_at_once, gauge.most_waiting, sum(each["failures"] for each in told))


def _tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def _said(worker: subprocess.Popen[str]) -> dict[str, list[float]]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the storm ended with exit code {worker.wait()}")
    return json.loads(line)  # type: ignore[no-any-return]


def work(url: str, token: Path, folder: Path, clients: int, scale: float) -> None:
    """One process's clients: says when all are connected, waits for a line, says when each was connected again."""
    logging.getLogger("remote_env").setLevel(logging.ERROR)
    folder.mkdir()
    timings = Timings().scaled(scale) if scale != 1.0 else Timings()
    made = []
    for number in range(clients):
        own_token = folder / str(number)
        shutil.copyfile(token, own_token)
        made.append(Client(url, token_file=own_token, timings=timings))
        made[-1].keep_alive()
    _until(lambda: all(client.link.state == "connected" for client in made))
    _answer({})
    sys.stdin.readline()
    _until(lambda: all(client.link.state == "connected" and client.link.reconnects > 0 for client in made))
    links = [client.link.snapshot() for client in made]
    _answer({"connected_at": [link.since.timestamp() for link in links], "failures": sum(link.failures for link in links)})
    for client in made:
        client.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not every client was connected within {PATIENCE_S:.0f} s")
        time.sleep(0.1)  # links tell nobody; a look costs little


def _answer(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.reconnect_storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--outage", type=float, default=2.0, help="seconds between the server's death and its start")
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    for hidden in ("--url", "--token", "--folder", "--worker"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work(options.url, Path(options.token), Path(options.folder), int(options.worker), options.scale)
        return
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data")
        try:
            seen = storm(server.start(), options.clients, options.processes, outage_s=options.outage, scale=options.scale)
        finally:
            server.remove_all()
    told = asdict(seen)
    del told["connected_again_s"]
    sys.stdout.write(json.dumps({**told, **{name: round(seen.percentile(share), 2) for name, share in SHARES.items()}}, indent=2) + "\n")


SHARES = {"p50_s": 0.5, "p99_s": 0.99, "max_s": 1.0}

if __name__ == "__main__":
    main()
