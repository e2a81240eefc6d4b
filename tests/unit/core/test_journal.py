"""The journal: what was committed is there after any death, what was wiped is gone from the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import server
from server.journal import SCHEMA_VERSION, CommitFailed, ExecutionRow, Journal, JournalError, SandboxRow

ROOT = Path(str(server.__file__)).parent.parent
SECRET = "s3cr3t-of-this-test"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def sandbox_row(sid: str = "sandbox-1", **fields: Any) -> SandboxRow:
    row = SandboxRow(sid, "run-00001", "busybox", {"lease_s": 300}, b"hash", "creating", None, None, None, None, None, 1.5, None)
    return replace(row, **fields)


def execution_row(eid: str = "execution-1", number: int = 1, **fields: Any) -> ExecutionRow:
    row = ExecutionRow(
        eid, "sandbox-1", number, "epoch", "run-00001", "run", {"command": "true"}, b"hash", {"env": {"KEY": SECRET}}, False,
        float(number), None, None, False,
    )  # fmt: skip
    return replace(row, **fields)


FINAL: dict[str, Any] = {"outcome": {"kind": "exited", "code": 0, "ran": True}}


# --------------------------------------------------------------------------------------------------- round trips


def test_a_sandbox_row_reads_as_it_was_written_through_its_whole_life(journal: Journal) -> None:
    journal.add_sandbox(sandbox_row())
    assert journal.sandbox("sandbox-1") == sandbox_row()
    journal.sandbox_container("sandbox-1", "c0ffee", {"lease_s": 300, "user": "root"})
    journal.sandbox_running("sandbox-1", 42, "epoch", b"secret")
    running = sandbox_row(
        state="running", container_id="c0ffee", container_pid=42, epoch="epoch", secret=b"secret", spec={"lease_s": 300, "user": "root"}
    )
    assert journal.live_sandboxes() == [running]
    journal.sandbox_removing("sandbox-1", "removed")
    assert journal.live_sandboxes() == [replace(running, state="removing", reason="removed")]
    journal.sandbox_over("sandbox-1", "removed", "removed", 9.0)
    assert journal.live_sandboxes() == []
    assert journal.sandbox("sandbox-1") == replace(running, state="removed", reason="removed", ended_at=9.0)


def test_an_execution_row_reads_as_it_was_written_through_its_whole_life(journal: Journal) -> None:
    row = execution_row()
    journal.accept(row)
    assert journal.execution(row.id) == row
    journal.cancel(row.id)
    assert journal.execution(row.id) == replace(row, cancelling=True)
    journal.end(row.id, FINAL, 7.0)
    assert journal.execution(row.id) == replace(row, cancelling=True, secrets=None, final=FINAL, ended_at=7.0)


def test_a_result_once_committed_is_never_overwritten(journal: Journal) -> None:
    """P2: an ending that is heard again, and a `lost` that comes too late, change nothing."""
    journal.accept(execution_row())
    journal.end("execution-1", FINAL, 7.0)
    journal.end("execution-1", {"outcome": {"kind": "lost"}}, 8.0)
    row = journal.execution("execution-1")
    assert row is not None and (row.final, row.ended_at) == (FINAL, 7.0)


def test_what_is_unknown_is_none(journal: Journal) -> None:
    assert (journal.execution("nobody"), journal.sandbox("nobody"), journal.meta("nothing")) == (None, None, None)


def test_meta_keeps_the_last_word(path: Path) -> None:
    for word in ("one", "two"):
        journal = Journal(path)
        journal.set_meta("boot_id", word)
        journal.close()
    assert Journal(path).meta("boot_id") == "two"


def test_unfinished_rows_come_in_the_order_of_their_numbers(journal: Journal) -> None:
    for number in (3, 1, 4, 2):
        journal.accept(execution_row(f"execution-{9 - number}", number))
    journal.accept(execution_row("elsewhere", 1, sandbox_id="sandbox-2"))
    journal.end("execution-7", FINAL, 7.0)
    assert [row.number for row in journal.unfinished("sandbox-1")] == [1, 3, 4]


def test_a_number_is_given_once_in_a_sandbox(journal: Journal) -> None:
    """SEQSBX."""
    journal.accept(execution_row("execution-1", 1))
    with pytest.raises(sqlite3.IntegrityError):
        journal.accept(execution_row("execution-2", 1))
    journal.accept(execution_row("execution-3", 1, sandbox_id="sandbox-2"))
    assert journal.execution("execution-2") is None


def test_an_id_is_taken_once_in_all_sandboxes(journal: Journal) -> None:
    journal.accept(execution_row("execution-1", 1))
    with pytest.raises(sqlite3.IntegrityError):
        journal.accept(execution_row("execution-1", 1, sandbox_id="sandbox-2"))


def test_the_highest_number_counts_finished_and_expired_rows_too(journal: Journal) -> None:
    """A number given again after its row had expired would be refused by the init as stale."""
    assert journal.highest_number("sandbox-1") == 0
    journal.accept(execution_row("execution-1", 5))
    journal.end("execution-1", FINAL, 1.0)
    journal.expire(["execution-1"])
    assert journal.highest_number("sandbox-1") == 5


def test_lists_are_newest_first_and_filtered(journal: Journal) -> None:
    for number in range(1, 5):
        run_id = "run-00001" if number < 4 else "run-00002"
        journal.accept(execution_row(f"execution-{number}", number, run_id=run_id))
    journal.end("execution-2", FINAL, 9.0)

    def listed(run_id: str | None = None, running: bool | None = None, limit: int = 10) -> list[int]:
        return [row.number for row in journal.executions(run_id=run_id, sandbox_id=None, running=running, limit=limit)]

    assert listed() == [4, 3, 2, 1]
    assert listed(run_id="run-00001") == [3, 2, 1]
    assert listed(running=True) == [4, 3, 1]
    assert listed(running=False) == [2]
    assert listed(limit=2) == [4, 3]


# ----------------------------------------------------------------------------------------------------- retention


def test_a_row_beyond_retention_still_answers_gone(journal: Journal) -> None:
    """KEEP: 410, not 404; an id used again is never taken for a new one."""
    journal.add_sandbox(sandbox_row())
    journal.accept(execution_row("execution-1", 1))
    journal.end("execution-1", FINAL, 5.0)
    journal.sandbox_over("sandbox-1", "removed", None, 10.0)
    assert journal.expirable(ended_before=10.0) == []
    assert journal.expirable(ended_before=10.1) == ["execution-1"]
    journal.expire(["execution-1"])
    row = journal.execution("execution-1")
    assert row is not None
    assert (row.expired, row.spec, row.final, row.secrets, row.ended_at, row.epoch) == (True, None, None, None, 5.0, "epoch")
    assert journal.expirable(ended_before=99.0) == []
    assert journal.executions(run_id=None, sandbox_id=None, running=None, limit=10) == []
    with pytest.raises(sqlite3.IntegrityError):
        journal.accept(execution_row("execution-1", 2))


def test_nothing_expires_while_its_sandbox_lives_or_it_is_unfinished(journal: Journal) -> None:
    journal.add_sandbox(sandbox_row("sandbox-1"))
    journal.accept(execution_row("execution-1", 1))
    journal.end("execution-1", FINAL, 5.0)
    journal.add_sandbox(sandbox_row("sandbox-2", state="removed", ended_at=1.0))
    journal.accept(execution_row("execution-2", 1, sandbox_id="sandbox-2"))
    assert journal.expirable(ended_before=1e12) == []


# ------------------------------------------------------------------------------------------------------- secrets


def on_disk(path: Path, text: str) -> list[str]:
    """Which of the journal's files hold the text."""
    return [file.name for file in sorted(path.parent.iterdir()) if text.encode() in file.read_bytes()]


@pytest.mark.parametrize("size", [1, 500], ids=["in the page", "in overflow pages"])
def test_wiped_secrets_are_in_no_file_after_a_checkpoint(journal: Journal, path: Path, size: int) -> None:
    for number in range(1, 30):
        journal.accept(execution_row(f"execution-{number}", number, secrets={"env": {"KEY": SECRET * size}}))
    assert on_disk(path, SECRET)
    journal.wipe_secrets([f"execution-{number}" for number in range(1, 20)])
    for number in range(20, 30):
        journal.end(f"execution-{number}", FINAL, 1.0)
    journal.checkpoint()
    assert on_disk(path, SECRET) == []
    row = journal.execution("execution-1")
    assert row is not None and row.secrets is None and row.spec_hash == b"hash"


def test_a_secret_that_is_still_needed_is_kept(journal: Journal) -> None:
    journal.accept(execution_row("execution-1", 1))
    journal.accept(execution_row("execution-2", 2))
    journal.wipe_secrets(["execution-1"])
    kept = journal.execution("execution-2")
    assert kept is not None and kept.secrets == {"env": {"KEY": SECRET}}


# -------------------------------------------------------------------------------------------- what cannot be opened


def test_a_journal_of_a_newer_version_is_refused_with_what_to_do(path: Path) -> None:
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match=r"newer remote-env .* --data-dir"):
        Journal(path)


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, bytes(range(256)) * 32])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(path)
    assert path.read_bytes() == content


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(JournalError):
        Journal(path)


def test_a_commit_that_fails_says_that_its_fate_is_unknown(journal: Journal, path: Path) -> None:
    """Somebody holds the file in a sqlite3 shell for too long, or the disk fails."""
    with pytest.raises(CommitFailed):
        journal.accept(execution_row(kind=object()))
    assert journal.execution("execution-1") is None


def test_the_time_of_each_commit_is_reported(path: Path) -> None:
    seconds: list[float] = []
    journal = Journal(path, seconds.append)
    journal.accept(execution_row())
    journal.end("execution-1", FINAL, 1.0)
    journal.close()
    assert len(seconds) == 2 and all(second >= 0 for second in seconds)


# ------------------------------------------------------------------------------------------------------ kill -9

CHILD = """
import os, sys
from pathlib import Path
from server import failpoints
from tests.unit.core.test_journal import FINAL, execution_row, sandbox_row
from server.journal import Journal
failpoints.arm(os.environ)
journal = Journal(Path(sys.argv[1]))
journal.add_sandbox(sandbox_row())
print("sandbox", flush=True)
journal.sandbox_running("sandbox-1", 42, "epoch", b"secret")
print("running", flush=True)
for number in range(1, 4):
    journal.accept(execution_row(f"execution-{number}", number))
    print("accepted", flush=True)
journal.cancel("execution-2")
print("cancelled", flush=True)
journal.end("execution-1", FINAL, 7.0)
print("ended", flush=True)
journal.sandbox_removing("sandbox-1", "removed")
print("removing", flush=True)
journal.sandbox_over("sandbox-1", "removed", None, 9.0)
print("over", flush=True)
"""


def killed_at(path: Path, failpoint: str) -> list[str]:
    """What the child had been told to be committed when it was killed at that place."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], cwd=ROOT,
        env={**os.environ, "REMOTE_ENV_SERVER_TEST": "1", "REMOTE_ENV_SERVER_FAILPOINT": failpoint},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("failpoint", "told", "found"),
    [
        ("after_sandbox_commit:kill", 0, ("creating", 0, False, False)),
        ("after_incarnation_commit:kill", 1, ("running", 0, False, False)),
        ("before_accept_commit:kill", 2, ("running", 0, False, False)),
        ("after_accept_commit:kill", 2, ("running", 1, False, False)),
        ("before_accept_commit:kill@3", 4, ("running", 2, False, False)),
        ("after_accept_commit:kill@3", 4, ("running", 3, False, False)),
        ("before_cancel_commit:kill", 5, ("running", 3, False, False)),
        ("after_cancel_commit:kill", 5, ("running", 3, True, False)),
        ("after_final_commit:kill", 6, ("running", 3, True, True)),
        ("after_removing_commit:kill", 7, ("removing", 3, True, True)),
        ("after_removed_commit:kill", 8, ("removed", 3, True, True)),
    ],
)
def test_a_kill_at_a_commit_loses_nothing_before_it(path: Path, failpoint: str, told: int, found: tuple[str, int, bool, bool]) -> None:
    assert len(killed_at(path, failpoint)) == told
    journal = Journal(path)
    sandbox, first, second = journal.sandbox("sandbox-1"), journal.execution("execution-1"), journal.execution("execution-2")
    assert sandbox is not None
    assert found == (
        sandbox.state, journal.highest_number("sandbox-1"), second is not None and second.cancelling,
        first is not None and first.final == FINAL,
    )  # fmt: skip
    journal.close()


def test_a_journal_killed_again_and_again_goes_on_from_where_it_was(path: Path, tmp_path: Path) -> None:
    killed_at(path, "after_accept_commit:kill@2")
    journal = Journal(path)
    journal.accept(execution_row("execution-9", journal.highest_number("sandbox-1") + 1))
    assert [row.number for row in journal.unfinished("sandbox-1")] == [1, 2, 3]
    journal.close()


def test_sessions_are_listed_without_a_look_at_other_executions(journal: Journal) -> None:
    for number in range(1, 7):
        opens = {"opens": "session"} if number % 3 == 0 else {"command": "true"}
        journal.accept(execution_row(f"execution-{number}", number, spec=opens))
    for some in ({"sandbox_id": None, "run_id": None}, {"sandbox_id": "sandbox-1", "run_id": None}):
        found = journal.executions(running=None, opens="session", limit=10, **some)
        assert [row.id for row in found] == ["execution-6", "execution-3"]
    plan = journal.read("EXPLAIN QUERY PLAN SELECT id FROM openings CROSS JOIN executions ON executions.rowid = openings.execution")
    assert not [step for *_, step in plan if str(step).startswith("SCAN executions")]
