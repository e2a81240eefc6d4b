"""Batches for tests: job files, the command line in a process of its own, what it has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from remote_env.batch.directory import read_results
from remote_env.batch.results import JobResult
from remote_env.batch.summary import latest
from tests.support.server import BUSYBOX, Server

CLI = (sys.executable, "-m", "remote_env.cli.main", "batch")
SMALL_JOB = {"memory": "32m"}


def small_job(id: str, *commands: str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A job of the busybox image, without a network: its sandbox is made fast."""
    return {"id": id, "image": BUSYBOX, "resources": SMALL_JOB, "network": "none", "commands": commands or ["true"], **fields}


def write_jobs(path: Path, jobs: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    return path


def start_cli(server: Server, *arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
    """`remote-env batch …` against this server. Its process group is its own, as a shell's job has it."""
    return subprocess.Popen(
        [*CLI, *map(str, arguments)], env={**os.environ, **server.env, "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **more,
    )  # fmt: skip


def run_cli(server: Server, *arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    process = start_cli(server, *arguments, **more)
    stdout, stderr = process.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def wait_for_line(process: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Reads the events of `batch run --json` until one is wanted."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if wanted(event):
            return event
    raise AssertionError(f"it never said so; exit code {process.wait()}: {process.stderr.read() if process.stderr else ''}")


def results_of(out: Path) -> dict[str, JobResult]:
    """The result of each job that counts."""
    return latest(read_results(out))


class Witness:
    """A directory of the server's machine that sandboxes may write to: says from outside how often each command ran."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.bind = {"source": str(directory), "target": "/witness", "read_only": False}

    def line(self, word: str) -> str:
        """A command that leaves a line with this word, in one write."""
        return f"echo {word} >> /witness/ran"

    def ran(self) -> Counter[str]:
        file = self.directory / "ran"
        return Counter(file.read_text().split()) if file.exists() else Counter()
