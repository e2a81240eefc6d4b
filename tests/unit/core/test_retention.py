"""Results are kept for their retention by the time that really passed, whatever the wall clock says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.journal import Journal
from server.retention import Retention

DAY = 86_400.0
HOUR = 3_600.0


class Clocks:
    """Seconds since boot go on; wall time does too, and jumps."""

    def __init__(self) -> None:
        self.boot = 1000.0
        self.ahead = 1.7e9

    def wall(self) -> float:
        return self.boot + self.ahead

    def pass_by(self, seconds: float) -> None:
        self.boot += seconds

    def jump(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


def retention(journal: Journal, clocks: Clocks, boot_id: str = "boot") -> Retention:
    return Retention(journal, DAY, boot_id, wall=clocks.wall, since_boot=lambda: clocks.boot)


def test_what_ended_a_retention_ago_is_beyond_it(journal: Journal, clocks: Clocks) -> None:
    kept, ended_at = retention(journal, clocks), clocks.wall()
    clocks.pass_by(DAY - 1)
    assert kept.horizon() <= ended_at
    clocks.pass_by(2)
    assert kept.horizon() > ended_at


@pytest.mark.parametrize("by", [HOUR, -HOUR, 30 * DAY])
def test_a_jump_of_the_wall_clock_lets_nothing_go_early(journal: Journal, clocks: Clocks, by: float) -> None:
    kept, ended_at = retention(journal, clocks), clocks.wall()
    kept.horizon()
    clocks.pass_by(HOUR)
    clocks.jump(by)
    assert kept.horizon() <= ended_at
    clocks.pass_by(DAY - HOUR - 1)
    assert kept.horizon() <= ended_at


def test_once_a_retention_has_passed_since_a_jump_it_counts_no_more(journal: Journal, clocks: Clocks) -> None:
    kept = retention(journal, clocks)
    kept.horizon()
    clocks.jump(30 * DAY)
    kept.horizon()
    ended_at = clocks.wall()
    clocks.pass_by(DAY + 1)
    assert kept.horizon() > ended_at


def test_a_jump_while_no_server_ran_is_seen_by_the_next_one(journal: Journal, clocks: Clocks) -> None:
    retention(journal, clocks).horizon()
    ended_at = clocks.wall()
    clocks.jump(2 * DAY)
    assert retention(journal, clocks).horizon() <= ended_at
    assert retention(journal, clocks).horizon() <= ended_at


def test_another_boot_tells_nothing_of_a_jump_and_forgets_none(journal: Journal, clocks: Clocks) -> None:
    first = retention(journal, clocks)
    first.horizon()
    ended_at = clocks.wall()
    clocks.jump(2 * DAY)
    first.horizon()
    now = clocks.wall()
    clocks.boot, clocks.ahead = 5.0, now - 5.0
    assert retention(journal, clocks, "another boot").horizon() <= ended_at
