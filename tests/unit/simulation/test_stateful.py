"""The same world under hypothesis, which draws other histories than ours and shortens them by itself."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.unit.simulation.actions import GROUPS, Action, do, words
from tests.unit.simulation.histories import FAULTS, SESSION_FAULTS
from tests.unit.simulation.ledger import BrokenPromise
from tests.unit.simulation.rules import RULES
from tests.unit.simulation.world import World

SETTINGS = settings(
    max_examples=150, stateful_step_count=40, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def _actions(groups: Iterable[str]) -> list[Action]:
    return [
        (name, one, two)
        for group in groups
        for name, entry in GROUPS[group].items()
        for one in range(len(entry.first))
        for two in range(len(entry.second))
    ]


WORK, FAULT, IN_SESSIONS = _actions(["work"]), _actions(FAULTS), _actions(["sessions", *SESSION_FAULTS])


class History(RuleBasedStateMachine):
    """Each step takes the first action that is possible, from the drawn one on. The promises are checked after each, and
    after the last one when nothing fails any more."""

    off: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.off)
        self.broke = False

    def first_possible(self, actions: list[Action], start: int) -> None:
        try:
            for action in (*actions[start:], *actions[:start]):
                if do(self.world, action):
                    note(words([action]))
                    return
        except BrokenPromise:
            self.broke = True
            raise

    @rule(start=st.integers(0, len(WORK) - 1))
    def work(self, start: int) -> None:
        self.first_possible(WORK, start)

    @rule(start=st.integers(0, len(WORK) - 1))
    def more_work(self, start: int) -> None:
        self.first_possible(WORK, start)

    @rule(start=st.integers(0, len(IN_SESSIONS) - 1))
    def session(self, start: int) -> None:
        self.first_possible(IN_SESSIONS, start)

    @rule(start=st.integers(0, len(FAULT) - 1))
    def fault(self, start: int) -> None:
        self.first_possible(FAULT, start)

    def teardown(self) -> None:
        if not self.broke:
            self.world.settle()


def test_no_history_of_hypothesis_breaks_a_promise() -> None:
    run_state_machine_as_test(History, settings=SETTINGS)


@pytest.mark.parametrize("name", ["DRAINFIRST", "ORPHAN", "AFTERLIFE"])
def test_hypothesis_sees_a_rule_that_is_off(name: str) -> None:
    """Not made short here: `test_rules` has the shortest histories, found much faster."""
    rule_off = next(each for each in RULES if each.name == name)
    unshortened = settings(SETTINGS, max_examples=300, phases=[Phase.generate])
    with rule_off.switched_off() as off, pytest.raises(BrokenPromise):
        run_state_machine_as_test(type("WithoutIt", (History,), {"off": off}), settings=unshortened)
