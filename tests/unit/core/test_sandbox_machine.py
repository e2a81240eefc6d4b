"""The sandbox machine: every (state, happening) pair."""

from __future__ import annotations

import pytest

from server.machines.sandbox import LIVE, TABLE, Happening, InvalidTransition, State, after

C, R, G = State.CREATING, State.RUNNING, State.REMOVING

EXPECTED: dict[tuple[State, Happening], State] = {
    (C, Happening.FIRST_HELLO): R,
    (C, Happening.CREATION_FAILED): State.FAILED,
    (C, Happening.REMOVAL): G,
    (R, Happening.REMOVAL): G,
    (R, Happening.DEATH): State.DEAD,
    (G, Happening.REMOVAL): G,
    (G, Happening.CREATION_FAILED): G,
    (G, Happening.DEATH): G,
    (G, Happening.CONTAINER_REMOVED): State.REMOVED,
}


@pytest.mark.parametrize("happening", Happening, ids=lambda happening: happening.name)
@pytest.mark.parametrize("state", State, ids=lambda state: state.value)
def test_each_pair_leads_exactly_where_it_says_or_is_refused(state: State, happening: Happening) -> None:
    expected = EXPECTED.get((state, happening))
    if expected is not None:
        assert after(state, happening) is expected
    else:
        with pytest.raises(InvalidTransition, match=state.value):
            after(state, happening)


def test_a_tombstone_stays_a_tombstone() -> None:
    assert {state for state, _ in TABLE} <= LIVE


def test_every_live_state_has_a_way_to_its_end() -> None:
    """P6: nothing runs for ever without an owner."""
    reached = {state: {state} for state in LIVE}
    for _ in State:
        for (before, _happening), then in TABLE.items():
            for found in reached.values():
                if before in found:
                    found.add(then)
    assert all(found - LIVE for found in reached.values())
