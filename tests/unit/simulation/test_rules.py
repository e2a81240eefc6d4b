"""Each rule of the protocol is needed, and the simulation can see it: without it a promise breaks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.simulation.actions import words
from tests.unit.simulation.histories import replay, search
from tests.unit.simulation.ledger import PROMISES
from tests.unit.simulation.rules import HISTORIES, RULES, Rule

NAMES = {
    *("EPOCHSBX", "EPOCHREQ", "STOREDEPOCH", "INCARN", "KEEP", "SEQSBX", "ORDER", "REFUSE", "ACKAFTER", "ONELINK", "REHELLO"),
    *("STRICT", "CANCELJ", "FENCE", "ABCOND", "CLAIM", "APPEND", "LENGTH", "ONEREADER", "DRAINFIRST", "DRAINN", "KEEPEND"),
    *("AFTERLIFE", "FRESHLEASE", "ORPHAN", "UNREACH"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_without_the_rule_a_promise_breaks(rule: Rule, record_property: Callable[[str, object], None]) -> None:
    with rule.switched_off() as off:
        found = search(off, rule.groups, range(HISTORIES), rule.begin)
        assert found is not None, f"{rule.name} is off, and no promise broke in {HISTORIES} histories"
    record_property("shortest history", f"{found.message}: {words(found.history)} (seed {found.seed})")
    assert found.promise in PROMISES
    # It is the rule that makes the difference: the same history breaks nothing where it is kept.
    assert replay(found.history)[1] is None


def test_every_named_rule_is_switched_off_by_some_mutant() -> None:
    switched_off = {rule.name.partition(" (")[0] for rule in RULES}
    assert switched_off >= NAMES


def test_every_rule_that_the_server_names_is_among_them() -> None:
    """A rule that gets a name in the code gets a mutant here."""
    for module in Path(__file__).parents[3].joinpath("server/machines").glob("*.py"):
        for name in re.findall(r"\(([A-Z]{4,})[,)]", module.read_text()):
            assert name in NAMES, f"{module.name} names {name}"
