"""The execution machine and the hello's rules in a world of crashes: the promises hold, and break with any rule off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from server.machines import execution as rules
from server.machines import sandbox as sandbox_rules
from server.machines.execution import CommitFinal, NotListed, SendAck, SendRun, State
from server.messages import Hello
from tests.unit.core.simulation import BrokenPromise, run

SEEDS = range(300)


def first_violation(seeds: range = range(300), **world: bool) -> str:
    """What the first broken history says; fails when none is."""
    for seed in seeds:
        try:
            run(seed, **world)
        except BrokenPromise as broken:
            return str(broken)
    pytest.fail("no history noticed that a rule was switched off")


@pytest.mark.parametrize("may_die", [False, True], ids=["container lives", "container may die"])
def test_the_promises_hold_in_every_history(may_die: bool) -> None:
    """Breaks, crashes between any two instructions, cancels, late copies, abandons, a link that stops taking."""
    endings: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in SEEDS:
        world = run(seed, may_die=may_die)
        endings.update(str(row.final and row.final[0]) for row in world.journal.values())
        happened.update(world.history)
    # A simulation in which nothing happens would hold as well.
    assert endings["ended"] > 1500
    assert (endings["lost"] > 0) is may_die
    assert all(happened[name] > 400 for name in ("link_breaks", "server_dies", "init_connects", "cancel", "output_taken"))


def test_one_seed_replays_one_history() -> None:
    assert run(7).history == run(7).history


@pytest.fixture
def forgets_listed_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes what the hello lists as running for never sent."""
    for state in (State.WAITING, State.SENT, State.RUNNING):
        monkeypatch.setitem(rules.TABLE, (state, rules.ListedRunning), lambda machine, event: (State.WAITING, ()))


@pytest.mark.usefixtures("forgets_listed_running")
def test_without_listed_running_and_refuse_a_command_runs_twice() -> None:
    assert "P1 (at most once)" in first_violation(refuse=False)


@pytest.mark.usefixtures("forgets_listed_running")
def test_refuse_alone_still_keeps_a_confused_server_from_running_it_twice() -> None:
    """At most once whatever a server does: what breaks is the order on the link, never P1."""
    assert "P1" not in first_violation()


def test_without_strict_a_lost_result_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ack that overtakes its commit: the result is gone from the init, the journal has none."""

    def ack_first(machine: rules.ExecutionMachine, event: rules.OutputTaken) -> tuple[State, tuple[rules.Instruction, ...]]:
        return State.ENDED, (SendAck(), CommitFinal())

    monkeypatch.setitem(rules.TABLE, (State.DRAINING, rules.OutputTaken), ack_first)
    assert "given up (journal_set_back)" in first_violation()
    monkeypatch.setattr(sandbox_rules, "reconcile", _lenient(sandbox_rules.reconcile))
    assert "P1 (at most once)" in first_violation(refuse=False)


def _lenient(
    strict: Callable[..., sandbox_rules.Accepted | sandbox_rules.GiveUp],
) -> Callable[..., sandbox_rules.Accepted | sandbox_rules.GiveUp]:
    """A reconciliation that sends again whatever is not listed."""

    def reconcile(**known: object) -> sandbox_rules.Accepted | sandbox_rules.GiveUp:
        hello, unfinished = known["hello"], known["unfinished"]
        assert isinstance(hello, Hello) and isinstance(unfinished, list)
        listed = {entry.id for entry in hello.entries}
        there = strict(**{**known, "unfinished": [row for row in unfinished if row.id in listed]})
        if isinstance(there, sandbox_rules.GiveUp):
            return there
        missing = tuple((row.id, NotListed()) for row in unfinished if row.id not in listed)
        return sandbox_rules.Accepted(there.events + missing, there.acknowledge)

    return reconcile


def test_without_the_skip_an_abandoned_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """FENCE: a fence that is sent as a run."""
    monkeypatch.setitem(rules.TABLE, (State.WAITING, rules.Turn), lambda machine, event: (State.SENT, (SendRun(),)))
    assert "P3" in first_violation()
