"""What no product can be faster than: the shell's own fork and exec in the same container, a bare HTTP round trip."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from scripts.benchmarks.engine import NotMeasured
from tests.support.server import free_port

# Runs inside the container, in the image's Python, and answers each line with one. posix_spawn is the least that Python can do.
_INSIDE = """
import json, os, subprocess, sys, time
clock = time.perf_counter
for line in sys.stdin:
    what, *words = json.loads(line)
    if what == "spawn":
        count, argv = words
        taken = []
        for _ in range(count):
            began = clock()
            if os.waitpid(os.posix_spawnp(argv[0], argv, os.environ), 0)[1]:
                raise SystemExit("the command failed")
            taken.append(clock() - began)
    else:
        began = clock()
        with subprocess.Popen(words[0], stdout=subprocess.PIPE, bufsize=0) as process:
            into, total = bytearray(1 << 20), 0
            while count := process.stdout.readinto(into):
                total += count
        taken = [clock() - began, total]
    print(json.dumps(taken), flush=True)
"""

_BARE = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
"""
START_S = 20.0


class Inside:
    """A process inside a container, reached through one `docker exec -i` that stays open."""

    def __init__(self, container: str) -> None:
        command = ["docker", "exec", "-i", container, "python3", "-c", _INSIDE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _ask(self, *words: Any) -> list[float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise NotMeasured("the container's own Python did not answer")
        taken: list[float] = json.loads(line)
        return taken

    def spawn(self, count: int, argv: Sequence[str]) -> list[float]:
        """Seconds of so many fork+execs in a row, each until the program has ended."""
        return self._ask("spawn", count, list(argv))

    def read(self, argv: Sequence[str]) -> tuple[float, int]:
        """Seconds to read all that a program writes into a pipe, and the bytes."""
        seconds, total = self._ask("read", list(argv))
        return seconds, int(total)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def bare_server(directory: Path) -> Iterator[str]:
    """uvicorn with the loop and parser that our server uses, and an application of five lines. Yields its address."""
    (directory / "bare.py").write_text(_BARE)
    port = free_port()
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--loop",
        "uvloop",
        "--http",
        "httptools",
        "--log-level",
        "error",
        "--no-access-log",
    ]
    command = [sys.executable, "-m", "uvicorn", "bare:app", "--app-dir", str(directory), *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                requests.get(url, timeout=5)
                break
            except requests.ConnectionError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise NotMeasured("uvicorn did not start") from None
                time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()
