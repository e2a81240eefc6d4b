"""Letting go of what is beyond retention: all of it, files too, in small steps, and nothing else."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from server import pruning as module
from server.journal import Journal
from server.pruning import Pruning
from server.spool import Spool
from tests.support.history import execution_id, fill

COUNT, PER_SANDBOX = 300, 25


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    fill(tmp_path, COUNT, per_sandbox=PER_SANDBOX)
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """Every third execution has written something."""
    spool = Spool(tmp_path / "spool")
    for number in range(0, COUNT, 3):
        spool.path(execution_id(number)).parent.mkdir(exist_ok=True)
        spool.path(execution_id(number)).write_bytes(b"output")
    return spool


def kept(tmp_path: Path, table: str) -> int:
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table} WHERE expired = 0").fetchone()
    return int(count)


def files(spool: Spool) -> int:
    return sum(each.is_file() for each in spool.root.rglob("*"))


def test_all_that_is_beyond_retention_goes_and_the_ids_stay_taken(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    asyncio.run(Pruning(journal, spool).run(time.time()))
    assert (kept(tmp_path, "executions"), kept(tmp_path, "sandboxes"), files(spool)) == (0, 0, 0)
    row = journal.execution(execution_id(7))
    assert row is not None
    assert (row.expired, row.spec, row.final) == (True, None, None)


def test_what_is_not_yet_beyond_it_stays(tmp_path: Path, journal: Journal, spool: Spool) -> None:
    ends = sorted({row.ended_at for row in journal.sandboxes(None, None) if row.ended_at is not None})
    asyncio.run(Pruning(journal, spool).run(ends[4]))  # four sandboxes were over before
    assert kept(tmp_path, "executions") == COUNT - 4 * PER_SANDBOX
    assert kept(tmp_path, "sandboxes") == COUNT // PER_SANDBOX - 4
    assert files(spool) == sum(number >= 4 * PER_SANDBOX for number in range(0, COUNT, 3))


def test_others_have_their_turn_after_every_few_rows(
    tmp_path: Path, journal: Journal, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in the loop's turns, not in seconds: between two of them no more rows go than one step takes."""
    monkeypatch.setattr(module, "_REST", 0.0)
    left = [COUNT]

    async def scene() -> None:
        work = asyncio.create_task(Pruning(journal, spool).run(time.time()))
        while not work.done():
            await asyncio.sleep(0)
            left.append(kept(tmp_path, "executions"))

    asyncio.run(scene())
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= module._STEP
