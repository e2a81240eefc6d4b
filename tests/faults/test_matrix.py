"""A short version of every row of the fault matrix: fewer commands, waits scaled down. `scripts/faults` runs them in full."""

from __future__ import annotations

import pytest

from tests.faults.matrix import rows as rows
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import ROWS, Row


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_row(row: Row) -> None:
    verdict = Arena(row, commands=row.short, seed=1, short=True).play()
    assert verdict.broken == [], "\n".join(verdict.broken[:10])
    assert verdict.commands >= row.short
