"""The promises hold in thousands of histories of crashes, and a history can be lived through again."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.simulation.actions import TABLE, words
from tests.unit.simulation.histories import FAULTS, SESSION_FAULTS, draw, replay, search

HISTORIES = 4000
BLOCKS = 8


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_history_breaks_a_promise(block: int) -> None:
    """`python -m tests.unit.simulation --seed N` goes on where this ends."""
    size = HISTORIES // BLOCKS
    found = search(frozenset(), (), range(block * size, (block + 1) * size))
    assert found is None, f"seed {found.seed}: {found.message}\n{words(found.history)}"


def test_everything_that_can_happen_does_happen() -> None:
    """A simulation in which nothing happens would keep every promise as well."""
    happened: Counter[str] = Counter()
    for number, fault in enumerate((*FAULTS, *FAULTS, *FAULTS)):
        for seed in range(12):
            happened.update(name for name, _, _ in draw(1000 * number + seed, groups=(fault,))[0])
    for seed in range(40):
        happened.update(name for name, _, _ in draw(seed, groups=("sessions", *SESSION_FAULTS))[0])
    # Without ONELINK there is no old link to read from.
    assert set(TABLE) - set(happened) == {"init_reads_old_link"}


@pytest.mark.parametrize("seed", [7, 77, 777])
def test_one_seed_is_one_history(seed: int) -> None:
    history, error, _ = draw(seed)
    assert draw(seed)[0] == history
    again, _, _ = replay(history)
    assert again == history
    assert error is None
