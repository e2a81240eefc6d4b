"""A short version of every row of the fault matrix: fewer commands, waits scaled down. `scripts/faults` runs them in full."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from tests.faults.matrix import rows as rows
from tests.faults.matrix.arena import Arena
from tests.faults.matrix.row import ROWS, Row


def _param(row: Row) -> ParameterSet:
    """Rows that hurt the same engine of their own stay in one process: it is started once."""
    marks = [] if row.engine == "shared" else [pytest.mark.xdist_group(f"engine: {row.engine}")]
    return pytest.param(row, id=row.name, marks=marks)


@pytest.mark.parametrize("row", [_param(row) for row in ROWS.values()])
def test_row(row: Row) -> None:
    verdict = Arena(row, commands=row.short, seed=1, short=True).play()
    assert verdict.broken == [], "\n".join(verdict.broken[:10])
    assert verdict.commands >= row.short
