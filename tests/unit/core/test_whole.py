"""A journal that has lost its end is refused, and one whose end is still in the log is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.journal import Journal, JournalError
from server.whole import missing_bytes
from tests.unit.core.test_journal import execution_row, sandbox_row


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


def filled(path: Path) -> Journal:
    journal = Journal(path)
    journal.add_sandbox(sandbox_row())
    for number in range(1, 100):  # fewer than make SQLite move its log into the database by itself
        journal.accept(execution_row(f"execution-{number}", number))
    return journal


def test_what_is_whole_empty_or_not_there_lacks_nothing(path: Path) -> None:
    assert missing_bytes(path) == 0
    path.touch()
    assert missing_bytes(path) == 0
    journal = filled(path)
    assert missing_bytes(path) == 0
    journal.checkpoint()
    assert missing_bytes(path) == 0
    journal.close()


@pytest.mark.parametrize("kept", [1, 99, 100, 4095, 4096, 20_000, -1])
def test_a_database_that_is_cut_anywhere_is_refused_with_a_sentence(path: Path, kept: int) -> None:
    filled(path).close()
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(kept if kept > 0 else size + kept)
    with pytest.raises(JournalError, match=r"is cut short, [0-9]+ bytes are missing; put a copy of it back"):
        Journal(path)


def test_a_checkpoint_that_was_interrupted_is_made_good_by_the_log(path: Path, tmp_path: Path) -> None:
    """The server is killed while the log is moved into the database: of the database only the beginning was written."""
    journal = filled(path)
    copy = tmp_path / "copy.sqlite3"
    shutil.copyfile(path.with_name(path.name + "-wal"), copy.with_name(copy.name + "-wal"))
    journal.checkpoint()
    journal.close()
    copy.write_bytes(path.read_bytes()[:8192])
    assert missing_bytes(copy) == 0
    found = Journal(copy)
    assert found.highest_number("sandbox-1") == 99
    found.close()
