"""Looking at a sandbox from outside: by the engine, never by the software under test."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from remote_env import Sandbox

PATIENCE_S = 30.0


def docker(*words: str) -> str:
    """A docker CLI call's output. Raises CalledProcessError."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def runs(sandbox: Sandbox, path: str = "/ran") -> Counter[str]:
    """How often each command ran: it appended a line with its name to a file in the sandbox."""
    found = subprocess.run(["docker", "exec", str(sandbox.container_id), "cat", path], capture_output=True, text=True, check=False)
    return Counter(found.stdout.split()) if found.returncode == 0 else Counter()


def processes(sandbox: Sandbox) -> list[str]:
    """The command lines of everything in the sandbox, as the host sees them."""
    lines = docker("top", str(sandbox.container_id), "-eo", "pid,args").splitlines()[1:]
    return [line.split(None, 1)[1] for line in lines]


def peak_memory(pid: int) -> int:
    """The largest resident size that a process has had so far, in bytes; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it is so; fail after PATIENCE_S seconds."""
    deadline = time.monotonic() + PATIENCE_S
    pause = 0.01
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.2)  # many conditions ask the engine, which costs more than a look
