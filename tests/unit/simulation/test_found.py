"""What the simulation has found, each as the history that showed it. It breaks nothing now, and would again without the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from remote_env import delivery
from remote_env.errors import SessionEnded
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


# A proxy copies a POST to a session; the one copy is accepted and runs. The journal is set back to before the session. The other
# copy comes before the init does: there is no such session, it said, and that was taken to speak of both copies.
SESSION_THAT_WAS_SET_BACK: list[Action] = [
    ("copy_journal", 0, 0), ("open_session", 0, 0), ("request_session", 0, 0), ("deliver_session", 0, 0), ("init_reads", 0, 0),
    ("server_reads", 0, 0), ("command", 0, 0), ("request", 0, 0), ("duplicate", 0, 0), ("deliver", 0, 1), ("init_reads", 0, 0),
    ("set_journal_back", 0, 0), ("start_server", 0, 0), ("deliver", 0, 0),
]  # fmt: skip


# A session is asked for, the answer is lost, the journal set back to before it. Its caller has the id fenced, and the fence gets
# the number that the run had, which the init reads now. What runs under the fence's id could not be cancelled.
FENCE_THAT_RUNS: list[Action] = [
    ("copy_journal", 0, 0), ("open_session", 0, 0), ("request_session", 0, 0), ("lose_session_answer", 0, 0), ("request_session", 0, 0),
    ("set_journal_back", 0, 0), ("start_server", 0, 0), ("deliver_session", 0, 0), ("init_reads", 0, 0), ("request_session", 0, 0),
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


@pytest.fixture
def what_a_session_refuses_is_not_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = delivery.Delivery._refused

    def refused(self: delivery.Delivery, event: delivery.RefusedBy) -> delivery.Step:
        if event.problem.code == "session_ended" and self.phase is delivery.Phase.POSTING and not self._earlier:
            return self._fail(SessionEnded(event.problem.detail))
        return real(self, event)

    monkeypatch.setattr(delivery.Delivery, "_refused", refused)


@pytest.fixture
def a_fence_is_never_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = rules.TABLE[rules.State.RUNNING, rules.CancelRequested]

    def but_a_fence(machine: rules.ExecutionMachine, event: rules.Event) -> tuple[rules.State, tuple[rules.Instruction, ...]]:
        return (machine.state, ()) if machine.kind == "fence" else cancel(machine, event)

    monkeypatch.setitem(rules.TABLE, (rules.State.RUNNING, rules.CancelRequested), but_a_fence)


CASES = {
    "every_id_is_taken_for_fresh": UNREACHABLE_AFTER_A_RESTART,
    "earlier_copies_are_forgotten": TOKEN_CHANGED_AFTER_A_BUSY_COPY,
    "whoever_runs_at_a_hello_begins_anew": OUTPUT_OF_A_ROW_THAT_WAS_SET_BACK,
    "what_a_session_refuses_is_not_fenced": SESSION_THAT_WAS_SET_BACK,
    "a_fence_is_never_cancelled": FENCE_THAT_RUNS,
}
PROMISES = {
    "every_id_is_taken_for_fresh": "P3", "earlier_copies_are_forgotten": "P3", "whoever_runs_at_a_hello_begins_anew": "P2",
    "what_a_session_refuses_is_not_fenced": "P3", "a_fence_is_never_cancelled": "P6",
}  # fmt: skip


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
