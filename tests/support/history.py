"""A past: a journal with many finished executions, written at once instead of lived through."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from server.journal import Journal

_AN_HOUR = 3600.0
_FINAL = {
    "output": {"total": 1234, "head": 1234, "tail": 1234, "truncated": None, "sha256": 32 * "8f", "open": False},
    "outcome": {"kind": "exited", "code": 0, "ran": True}, "cpu_s": 0.0012, "max_rss_bytes": 3211264, "oom_kills": 0, "waited_s": 0.0,
}  # fmt: skip


def execution_id(number: int) -> str:
    """The id of the n-th execution of the past."""
    return f"0193f0b2{number:024x}"


def fill(data_dir: Path, count: int, *, per_sandbox: int = 200, runs: int = 20, ended_before_s: float = _AN_HOUR) -> None:
    """Put `count` finished executions into the journal of a server that does not run, the newest of which ended
    `ended_before_s` seconds ago, in sandboxes that were removed right after their last one."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "journal.sqlite3"
    Journal(path).close()  # the schema
    newest = time.time() - ended_before_s
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-200000")  # KiB
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO sandboxes(id, run_id, image, spec, spec_hash, state, reason, container_id, container_pid, epoch, secret, "
            "created_at, ended_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            _sandboxes(count, per_sandbox, runs, newest),
        )
        db.executemany(
            "INSERT INTO executions(id, sandbox_id, number, epoch, run_id, kind, spec, spec_hash, accepted_at, ended_at, final) "
            "VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            _executions(count, per_sandbox, runs, newest),
        )
        db.execute("COMMIT")


def _sandbox(number: int, runs: int) -> tuple[str, str, str]:
    """Id, run and epoch."""
    return f"0193f0b1{number:024x}", f"history-run-{number % runs:04}", f"{number:032x}"


def _sandboxes(count: int, per_sandbox: int, runs: int, newest: float) -> Iterator[tuple[Any, ...]]:
    spec = json.dumps({"image": "python:3.12", "lease_s": 300.0, "on_lease_end": "wait", "workdir": "/", "user": "", "link_version": 3})
    for number in range(-(-count // per_sandbox)):
        sandbox_id, run_id, epoch = _sandbox(number, runs)
        last = min(count, (number + 1) * per_sandbox) - 1
        ended_at = newest - (count - 1 - last) * 0.01
        yield (
            sandbox_id, run_id, "python:3.12", spec, bytes(32), "removed", "removed", f"{number:064x}", 4242, epoch, bytes(16),
            ended_at - per_sandbox * 0.01, ended_at,
        )  # fmt: skip


def _executions(count: int, per_sandbox: int, runs: int, newest: float) -> Iterator[tuple[Any, ...]]:
    for number in range(count):
        sandbox_id, run_id, epoch = _sandbox(number // per_sandbox, runs)
        ended_at = newest - (count - 1 - number) * 0.01
        spec = json.dumps(
            {"command": f"python -m pytest -x -q tests/test_{number % 97}.py", "timeout_s": 1800.0, "output_limit_bytes": 67108864}
        )
        final = json.dumps({**_FINAL, "started_at": ended_at - 0.005})
        yield (
            execution_id(number), sandbox_id, number % per_sandbox + 1, epoch, run_id, "run", spec, number.to_bytes(32, "big"),
            ended_at - 0.006, ended_at, final,
        )  # fmt: skip
