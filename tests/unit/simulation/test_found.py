"""What the simulation has found, each as the history that showed it. It breaks nothing now, and would again without the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from remote_env import delivery
from server.machines import execution as rules
from tests.unit.simulation.actions import Action
from tests.unit.simulation.histories import replay

# A caller posts and dies; the POST is still under way. The next process of his finds nobody listening, for longer than the
# reconnect budget. It had sent no byte itself, and said so: "did not run and never will". Then the POST came.
UNREACHABLE_AFTER_A_RESTART: list[Action] = [
    ("call", 0, 0), ("request", 0, 0), ("reattach", 0, 0), ("crash", 0, 0), ("request", 0, 0), ("wait", 3, 0), ("request", 0, 0),
]  # fmt: skip

# A proxy copies a POST. The server has no room for the one, and takes the other. Then the token is changed: the caller's next
# copy is refused, and "unauthorized" was taken to speak of all copies.
TOKEN_CHANGED_AFTER_A_BUSY_COPY: list[Action] = [
    ("call", 0, 0), ("request", 0, 0), ("duplicate", 0, 0), ("busy", 0, 0), ("deliver", 0, 0), ("init_reads", 0, 0),
    ("request", 0, 0), ("refuse_token", 0, 0),
]  # fmt: skip


# A command runs and has said something. The journal is set back to before it; a late copy of its POST is accepted before the
# init comes, and gets the number that the command had before. Accepting it threw away what the spool had under its id.
OUTPUT_OF_A_ROW_THAT_WAS_SET_BACK: list[Action] = [
    ("copy_journal", 0, 0), ("call", 0, 0), ("request", 0, 0), ("duplicate", 0, 0), ("deliver", 0, 0), ("init_reads", 0, 0),
    ("server_reads", 0, 0), ("splice", 0, 0), ("set_journal_back", 0, 0),
]  # fmt: skip


@pytest.fixture
def every_id_is_taken_for_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., delivery.Delivery] = delivery.Delivery

    def fresh(*args: Any, **options: Any) -> delivery.Delivery:
        return real(*args, **{**options, "fresh": True})

    monkeypatch.setattr(delivery, "Delivery", fresh)


@pytest.fixture
def earlier_copies_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    real = delivery.Delivery._busy_here

    def busy_here(self: delivery.Delivery, *args: Any) -> delivery.Step:
        step = real(self, *args)
        self._earlier = False
        return step

    monkeypatch.setattr(delivery.Delivery, "_busy_here", busy_here)


@pytest.fixture
def whoever_runs_at_a_hello_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_nothing(*_: object) -> tuple[rules.State, tuple[rules.Instruction, ...]]:
        return rules.State.RUNNING, (rules.AttachOutput(from_nothing=True),)

    monkeypatch.setitem(rules.TABLE, (rules.State.WAITING, rules.ListedRunning), from_nothing)


CASES = {
    "every_id_is_taken_for_fresh": UNREACHABLE_AFTER_A_RESTART,
    "earlier_copies_are_forgotten": TOKEN_CHANGED_AFTER_A_BUSY_COPY,
    "whoever_runs_at_a_hello_begins_anew": OUTPUT_OF_A_ROW_THAT_WAS_SET_BACK,
}
PROMISES = {"every_id_is_taken_for_fresh": "P3", "earlier_copies_are_forgotten": "P3", "whoever_runs_at_a_hello_begins_anew": "P2"}


@pytest.mark.parametrize("history", CASES.values(), ids=CASES)
def test_what_was_found_breaks_nothing_any_more(history: list[Action]) -> None:
    happened, error, _ = replay(history)
    assert error is None
    assert happened == history


@pytest.mark.parametrize("without_the_cure", CASES)
def test_without_its_cure_it_breaks_the_promise_again(without_the_cure: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(without_the_cure)
    _, error, _ = replay(CASES[without_the_cure])
    assert error is not None
    assert error.promise == PROMISES[without_the_cure]
