"""The rules of delivery alone: no I/O, no clock, every pair of phase and event."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.backoff import Backoff
from remote_env.delivery import (
    Abandon,
    AnotherServer,
    Answered,
    Broken,
    Delivery,
    Event,
    Failed,
    Finished,
    Get,
    NothingSent,
    Phase,
    Post,
    RefusedBy,
    Step,
)
from remote_env.errors import (
    AnswerMismatch,
    CommandNotDelivered,
    EpochChanged,
    IdConflict,
    InvalidSpec,
    LinkLost,
    NotRunError,
    OutcomeUnknownError,
    RemoteEnvError,
    SandboxGone,
    ServerBusy,
    Unauthorized,
    Unreachable,
)
from remote_env.protocol import PROBLEMS, Execution, ExecutionState, Outcome, Problem
from remote_env.timings import Timings

ID = "execution-1"
TIMINGS = Timings()


def delivery(
    *, reached: bool = True, deadline: float = 1800.0, accepted_suffices: bool = False, known: bool = False, fresh: bool = True
) -> Delivery:
    return Delivery(
        ID,
        now=0.0,
        deadline=deadline,
        timings=TIMINGS,
        backoff=Backoff(0.1, 5.0, lambda: 1.0),
        reached=reached,
        accepted_suffices=accepted_suffices,
        known=known,
        fresh=fresh,
    )


def execution(state: ExecutionState = "ended", kind: str = "exited") -> Execution:
    outcome = None
    if state == "ended":
        outcome = Outcome.model_validate({"kind": kind, "ran": True, "code": 0})
    elif state == "abandoned":
        outcome = Outcome(kind="not_run", ran=False)
    return Execution(id=ID, sandbox_id="sandbox-1", epoch="e1", run_id="run-0001", state=state, outcome=outcome)


def answered(state: ExecutionState = "ended", now: float = 0.0) -> Answered:
    return Answered(now, execution(state))


def refused(code: str, now: float = 0.0, retry_after_s: float | None = None) -> RefusedBy:
    return RefusedBy(now, Problem.of(code, "detail", retry_after_s=retry_after_s))


def broken(now: float = 0.0) -> Broken:
    return Broken(now, "reset")


def nothing_sent(now: float = 0.0) -> NothingSent:
    return NothingSent(now, "refused")


TO_PHASE: dict[Phase, tuple[Event, ...]] = {
    Phase.POSTING: (),
    Phase.ASKING: (broken(),),
    Phase.FENCING: (broken(), refused("not_found")),
    Phase.WAITING: (answered("running"),),
}


def in_phase(phase: Phase) -> Delivery:
    machine = delivery()
    machine.begin(0.0)
    for event in TO_PHASE[phase]:
        machine.handle(event)
    assert machine.phase is phase
    return machine


EVENTS: dict[str, Callable[[], Event]] = {
    "ended": lambda: answered("ended", 1.0),
    "abandoned": lambda: answered("abandoned", 1.0),
    "accepted": lambda: answered("accepted", 1.0),
    "running": lambda: answered("running", 1.0),
    "broken": lambda: broken(1.0),
    "nothing_sent": lambda: nothing_sent(1.0),
    "hopeless": lambda: Broken(1.0, "protocol 2", hopeless=True),
    "mismatched": lambda: Broken(1.0, "about another", mismatched=True),
    "another server": lambda: AnotherServer(1.0, "instance 2"),
    **{code: (lambda code=code: refused(code, 1.0)) for code in PROBLEMS},  # type: ignore[misc]
}

BUSY = ("damaged", "too_many", "capacity", "disk_full", "stopping", "engine_unavailable", "session_busy", "sandbox_full")
UNKNOWN = ("internal", "commit_failed", "input_unknown", "file_agent_failed")
MISSING = ("not_found", "image_not_found", "file_not_found")
AGAIN = {Phase.POSTING: Post, Phase.ASKING: Get, Phase.FENCING: Abandon, Phase.WAITING: Get}

Expected = type[Post | Get | Abandon | Finished] | type[RemoteEnvError]


def expected(phase: Phase, event: str) -> Expected:
    """The table. What is not named here ends as "cannot be known", which is always true."""
    if event == "ended":
        return Finished
    if event == "abandoned":
        return CommandNotDelivered
    if event in ("accepted", "running"):
        return Get
    if event == "hopeless":
        return OutcomeUnknownError
    if event == "nothing_sent" or event in BUSY:
        return AGAIN[phase]
    if event == "another server":
        return EpochChanged
    if event in ("broken", "mismatched", *UNKNOWN):
        return Get if phase is Phase.POSTING else AGAIN[phase]
    if phase is Phase.POSTING:
        return {
            "unauthorized": Unauthorized,
            "forbidden": Unauthorized,
            "not_found": SandboxGone,
            "wrong_state": SandboxGone,
            "gone": SandboxGone,
            "epoch_mismatch": EpochChanged,
            "too_large": InvalidSpec,
            "invalid": InvalidSpec,
            "id_conflict": IdConflict,
            "session_ended": Abandon,  # it speaks of one copy of the POST (CLAIM)
        }.get(event, RemoteEnvError)
    if event == "unauthorized":
        return AGAIN[phase]
    if phase is Phase.ASKING and event in MISSING:
        return Abandon
    return EpochChanged if event in (*MISSING, "epoch_mismatch") else OutcomeUnknownError


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("phase", TO_PHASE)
def test_each_event_in_each_phase_has_the_one_next_step_of_the_table(phase: Phase, event: str) -> None:
    step: Step = in_phase(phase).handle(EVENTS[event]())
    wanted = expected(phase, event)
    assert isinstance(step.error if isinstance(step, Failed) else step, wanted)


@pytest.mark.parametrize("code", ["gone", "not_found", "wrong_state", "epoch_mismatch"])
def test_an_id_that_may_have_been_sent_before_is_unknown_where_its_sandbox_is_gone(code: str) -> None:
    """A client that was killed had sent it; another one sends it again and is told that there is no such sandbox any more."""
    machine = delivery(fresh=False)
    machine.begin(0.0)
    step = machine.handle(refused(code))
    assert isinstance(step, Failed)
    assert isinstance(step.error, OutcomeUnknownError)


def test_an_event_after_the_end_is_refused() -> None:
    machine = delivery()
    machine.handle(answered("ended"))
    with pytest.raises(RuntimeError, match="after the end"):
        machine.handle(broken())


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=60))
def test_whatever_happens_the_post_is_never_repeated_after_it_broke(names: list[str]) -> None:
    machine = delivery()
    step: Step = machine.begin(0.0)
    broke = False
    for name in names:
        if isinstance(step, Post):
            assert not broke, "a POST was sent again after its fate became unknown"
            broke = name in ("broken", "mismatched", "hopeless", *UNKNOWN)
        step = machine.handle(EVENTS[name]())
        if isinstance(step, (Finished, Failed)):
            return


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=60))
def test_not_run_is_said_only_of_a_fenced_id_or_of_copies_that_were_all_refused(names: list[str]) -> None:
    machine = delivery()
    step: Step = machine.begin(0.0)
    unanswered = False
    for name in names:
        unanswered |= isinstance(step, Post) and name in ("broken", "mismatched", "hopeless", *UNKNOWN)
        step = machine.handle(EVENTS[name]())
        if isinstance(step, Failed) and isinstance(step.error, NotRunError):
            fenced = name == "abandoned"
            assert fenced or not unanswered
            assert fenced or not isinstance(step.error, (ServerBusy, CommandNotDelivered))
        if isinstance(step, (Finished, Failed)):
            return


@given(st.lists(st.sampled_from(["broken", "nothing_sent", "running", "accepted", "capacity", "not_found"]), min_size=1, max_size=20))
def test_every_call_ends_soon_after_its_deadline(names: list[str]) -> None:
    machine = delivery(deadline=100.0)
    step: Step = machine.begin(0.0)
    now, turn = 0.0, 0
    while not isinstance(step, (Finished, Failed)):
        now += step.after_s + max(0.05, step.wait_s)
        assert now < 100.0 + 25.0
        name = names[turn % len(names)]
        event = EVENTS[name]()
        step = machine.handle(type(event)(**{**event.__dict__, "now": now}))
        turn += 1


def test_a_server_never_reached_is_told_as_unreachable_soon() -> None:
    machine = delivery(reached=False)
    assert isinstance(machine.handle(nothing_sent(0.5)), Post)
    step = machine.handle(nothing_sent(TIMINGS.first_contact_s))
    assert isinstance(step, Failed)
    assert isinstance(step.error, Unreachable)


def test_a_server_reached_before_is_waited_for_until_the_reconnect_budget() -> None:
    machine = delivery(reached=True)
    assert isinstance(machine.handle(nothing_sent(0.0)), Post)
    assert isinstance(machine.handle(nothing_sent(290.0)), Post)
    step = machine.handle(nothing_sent(301.0))
    assert isinstance(step, Failed)
    assert isinstance(step.error, Unreachable), "nothing was ever sent: it did not run"


def test_the_link_away_for_the_whole_budget_is_link_lost_with_the_id() -> None:
    machine = in_phase(Phase.WAITING)
    assert isinstance(machine.handle(broken(10.0)), Get)
    step = machine.handle(broken(310.0))
    assert isinstance(step, Failed)
    assert isinstance(step.error, LinkLost)
    assert step.error.execution_id == ID


def test_other_requests_answers_for_the_whole_budget_are_told_as_such() -> None:
    machine = in_phase(Phase.WAITING)
    assert isinstance(machine.handle(Broken(10.0, "about another", mismatched=True)), Get)
    step = machine.handle(Broken(310.0, "about another", mismatched=True))
    assert isinstance(step, Failed)
    assert isinstance(step.error, AnswerMismatch)
    assert step.error.execution_id == ID


def test_an_answer_gives_the_link_its_whole_budget_anew() -> None:
    machine = in_phase(Phase.WAITING)
    machine.handle(broken(10.0))
    machine.handle(answered("running", 290.0))
    assert isinstance(machine.handle(broken(500.0)), Get)
    assert isinstance(machine.handle(broken(700.0)), Get)


def test_busy_is_waited_out_until_the_queue_timeout_then_fenced_then_told() -> None:
    """A copy of the POST may have been sent twice on the way: only the fence makes "did not run" true."""
    machine = delivery()
    assert machine.handle(refused("capacity", 0.0, retry_after_s=7.0)) == Post(after_s=7.0, wait_s=20.0)
    assert isinstance(machine.handle(refused("capacity", 599.0, retry_after_s=7.0)), Abandon)
    step = machine.handle(answered("abandoned", 600.0))
    assert isinstance(step, Failed)
    assert isinstance(step.error, ServerBusy)


def test_a_busy_execution_that_was_taken_after_all_is_waited_for() -> None:
    machine = delivery()
    machine.handle(refused("capacity", 700.0))
    assert isinstance(machine.handle(answered("running", 701.0)), Get)
    assert isinstance(machine.handle(answered("ended", 702.0)), Finished)


def test_an_unconfirmed_fence_is_asked_for_until_it_is_confirmed() -> None:
    machine = in_phase(Phase.FENCING)
    assert isinstance(machine.handle(answered("accepted", 1.0)), Get)
    step = machine.handle(answered("abandoned", 2.0))
    assert isinstance(step, Failed)
    assert isinstance(step.error, CommandNotDelivered)


def test_start_ends_with_the_acceptance() -> None:
    machine = delivery(accepted_suffices=True)
    assert machine.begin(0.0) == Post()
    assert isinstance(machine.handle(answered("accepted")), Finished)


def test_start_does_not_take_an_unconfirmed_fence_for_acceptance() -> None:
    machine = delivery(accepted_suffices=True)
    machine.handle(broken())
    machine.handle(refused("not_found"))
    assert isinstance(machine.handle(answered("accepted", 1.0)), Get)
    step = machine.handle(answered("abandoned", 2.0))
    assert isinstance(step, Failed)
    assert isinstance(step.error, CommandNotDelivered)


def test_the_deadline_ends_the_call_and_says_that_the_command_goes_on() -> None:
    machine = delivery(deadline=30.0)
    assert machine.begin(0.0) == Post(wait_s=20.0)
    assert machine.handle(answered("running", 20.0)) == Get(wait_s=10.0)
    step = machine.handle(answered("running", 30.0))
    assert isinstance(step, Failed)
    assert "not cancelled" in str(step.error)
    assert machine.expired


def test_a_server_that_answers_at_once_is_not_asked_in_a_busy_loop() -> None:
    machine = in_phase(Phase.WAITING)
    waits = []
    for turn in range(1, 6):
        step = machine.handle(answered("running", turn * 0.001))
        assert isinstance(step, Get)
        waits.append(step.after_s)
    assert waits == sorted(waits)
    assert waits[0] > 0


def test_waiting_for_a_known_execution_shows_an_abandoned_one_as_it_is() -> None:
    machine = delivery(known=True)
    assert isinstance(machine.begin(0.0), Get)
    assert isinstance(machine.handle(answered("abandoned")), Finished)


def test_giving_up_before_a_byte_was_sent_is_unreachable_and_after_it_link_lost() -> None:
    assert isinstance(delivery().give_up(1.0, "closed").error, Unreachable)
    assert isinstance(in_phase(Phase.ASKING).give_up(1.0, "closed").error, LinkLost)


def test_backoff_doubles_to_its_limit_and_begins_anew_after_a_success() -> None:
    backoff = Backoff(0.1, 0.5, lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    backoff.reset()
    assert backoff.next_s() == pytest.approx(0.1)
    assert 0.05 <= Backoff(0.1, 5.0, lambda: 0.0).next_s() <= 0.1
