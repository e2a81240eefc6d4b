"""The journal after a failure in the middle of a transaction, from an older schema, and with very many rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server import journal as module
from server.journal import SCHEMA_VERSION, ExecutionRow, Journal, SandboxRow

FINAL = {"output": {"total": 0, "head": 0, "tail": 0, "truncated": None, "sha256": ""}, "outcome": {"kind": "exited", "ran": True}}


def sandbox(sid: str, run_id: str = "run-00001") -> SandboxRow:
    return SandboxRow(sid, run_id, "busybox", {}, b"", "running", None, "c0ffee", 1, "epoch", b"secret", 0.0, None)


def execution(eid: str, sid: str, number: int, run_id: str = "run-00001") -> ExecutionRow:
    return ExecutionRow(eid, sid, number, "epoch", run_id, "run", {"command": "true"}, b"", {"stdin": "x"}, False, 0.0, None, None, False)


def fill(journal: Journal, sandboxes: int, each: int) -> None:
    for s in range(sandboxes):
        sid, run_id = f"sandbox-{s}", f"run-{s:05}"
        journal.add_sandbox(sandbox(sid, run_id))
        for number in range(1, each + 1):
            journal.accept(execution(f"{sid}-{number}", sid, number, run_id))
            journal.end(f"{sid}-{number}", FINAL, 1.0)
        journal.sandbox_over(sid, "removed", None, 10.0)


@pytest.mark.parametrize("writes", [Journal.expire, Journal.wipe_secrets])
def test_a_commit_after_a_failed_transaction_is_one(tmp_path: Path, writes: Callable[[Journal, list[str]], None]) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    fill(journal, 1, 2)
    with sqlite3.connect(path) as other:
        other.execute(
            "CREATE TRIGGER refused BEFORE UPDATE OF secrets ON executions WHEN NEW.id = 'sandbox-0-2' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(sqlite3.Error):
        writes(journal, ["sandbox-0-1", "sandbox-0-2"])
    journal.accept(execution("execution-late", "sandbox-0", 3))
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT count(*) FROM executions WHERE id = 'execution-late'").fetchone() == (1,)
        assert other.execute("SELECT count(*) FROM executions WHERE expired = 1").fetchone() == (0,)


def test_a_journal_of_the_first_schema_is_brought_forward_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.sqlite3"
    with monkeypatch.context() as older:
        older.setattr(module, "SCHEMA_VERSION", 1)
        first = Journal(path)
        fill(first, 1, 1)
        first.close()
    journal = Journal(path)
    assert journal.expirable(ended_before=11.0) == ["sandbox-0-1"]
    journal.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def steps(journal: Journal, asks: Callable[[Journal], Any]) -> int:
    """How many instructions SQLite's machine takes for it, in hundreds: the same on every machine."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    journal._db.set_progress_handler(step, 100)
    asks(journal)
    journal._db.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize(
    "asks",
    [
        lambda journal: journal.executions(run_id="run-00001", sandbox_id=None, running=None, limit=100),
        lambda journal: journal.executions(run_id=None, sandbox_id="sandbox-1", running=False, limit=100),
        lambda journal: journal.executions(run_id=None, sandbox_id=None, running=True, limit=100),
        lambda journal: journal.executions(run_id=None, sandbox_id=None, running=None, limit=5),
        lambda journal: journal.sandboxes("run-00001", None),
    ],
    ids=["of a run", "of a sandbox", "running", "the newest", "sandboxes of a run"],
)
def test_a_list_costs_what_it_lists_not_what_the_journal_holds(tmp_path: Path, asks: Callable[[Journal], Any]) -> None:
    small, large = Journal(tmp_path / "small.sqlite3"), Journal(tmp_path / "large.sqlite3")
    fill(small, 5, 10)
    fill(large, 200, 10)
    assert steps(large, asks) <= steps(small, asks) + 1


def test_a_look_for_what_is_beyond_retention_does_not_pass_what_expired_before(tmp_path: Path) -> None:
    def look(journal: Journal) -> Any:
        return journal.expirable(11.0)

    small, large = Journal(tmp_path / "small.sqlite3"), Journal(tmp_path / "large.sqlite3")
    for journal, each in ((small, 10), (large, 2000)):
        fill(journal, 1, each)
        while ids := journal.expirable(11.0):
            journal.expire(ids)
    assert steps(large, look) <= steps(small, look) + 1


def test_lists_are_newest_first_by_every_filter(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add_sandbox(sandbox("sandbox-0"))
    for number in range(1, 8):
        journal.accept(replace(execution(f"execution-{number}", "sandbox-0", number), accepted_at=float(number)))
    newest = [f"execution-{number}" for number in range(7, 2, -1)]
    for run_id in (None, "run-00001"):
        for sandbox_id in (None, "sandbox-0"):
            for running in (None, True):
                found = journal.executions(run_id=run_id, sandbox_id=sandbox_id, running=running, limit=5)
                assert [row.id for row in found] == newest
