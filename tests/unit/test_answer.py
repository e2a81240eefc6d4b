"""What `execute()` answers for each way in which an execution can end."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, get_args

import pytest

from remote_env.answer import execute_answer, sentence
from remote_env.protocol import Execution, LostReason, Outcome, OutcomeKind, Output

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def ended(kind: str, ran: Any = True, **outcome: Any) -> Execution:
    state = "abandoned" if kind == "not_run" else "ended"
    return Execution(
        id="execution-one", sandbox_id="sandbox-one", epoch="e", run_id="run-number-one", state=state,
        outcome=Outcome.model_validate({"kind": kind, "ran": ran, **outcome}), accepted_at=BEGUN, started_at=BEGUN + timedelta(seconds=1),
        ended_at=BEGUN + timedelta(seconds=3.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("execution", "returncode"),
    [
        (ended("exited", code=0), 0), (ended("exited", code=255), 255), (ended("signalled", signal=9), 137),
        (ended("signalled", signal=11), 139), (ended("oom", signal=9), 137), (ended("oom_suspected", signal=9), 137),
        (ended("failed_to_start", False, reason="not_found", errno=2), 127),
        (ended("failed_to_start", False, reason="not_executable", errno=13), 126),
    ],
)  # fmt: skip
def test_returncode_of_its_own_needs_no_words(execution: Execution, returncode: int) -> None:
    answer = execute_answer(execution, b"")
    assert (answer.returncode, answer.exception_info) == (returncode, "")


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        (ended("timed_out", clock="total"), ["did not end within its timeout", "2.5 s", "it ran", "raise the timeout"]),
        (ended("timed_out", clock="idle"), ["no output", "it ran", "idle_timeout_s"]),
        (ended("cancelled"), ["cancelled", "ran in part", "look"]),
        (ended("cancelled", False), ["cancelled before it started", "did not run and never will"]),
        (ended("cancelled", reason="sandbox_removed"), ["sandbox_removed"]),
        (ended("failed_to_start", False, reason="no_such_user"), ["did not run", "/etc/passwd"]),
        (ended("failed_to_start", False, reason="no_process", errno=11), ["errno 11", "did not run", "pids"]),
        (ended("failed_to_start", False, reason="something_new"), ["something_new", "did not run"]),
        (ended("lost", "unknown", reason="sandbox_died"), ["its sandbox died", "cannot be known", "new sandbox"]),
        (ended("lost", True, reason="host_restarted"), ["machine was restarted", "ran in part"]),
        (ended("not_run", False), ["not delivered", "did not run and never will", "run again"]),
    ],
)
def test_minus_one_comes_with_one_sentence_on_what_happened_whether_it_ran_and_what_to_do(execution: Execution, words: list[str]) -> None:
    answer = execute_answer(execution, b"so far")
    assert (answer.returncode, answer.output) == (-1, "so far")
    for word in words:
        assert word in answer.exception_info
    assert answer.exception_info.endswith(".")
    assert "\n" not in answer.exception_info
    assert answer.extra["outcome"] == execution.outcome.kind if execution.outcome else None


def test_every_kind_and_every_reason_of_loss_has_words() -> None:
    for kind in get_args(OutcomeKind):
        assert sentence(ended(kind))
    sentences = {sentence(ended("lost", "unknown", reason=reason)) for reason in get_args(LostReason)}
    assert len(sentences) == len(get_args(LostReason))


@pytest.mark.parametrize(("state", "ran"), [("running", True), ("accepted", "unknown")])
def test_execution_that_goes_on_is_never_shown_as_ended(state: str, ran: object) -> None:
    going_on = ended("exited", code=0).model_copy(update={"state": state, "outcome": None, "ended_at": None})
    answer = execute_answer(going_on, b"")
    assert (answer.returncode, answer.extra["ran"], answer.extra["duration_s"]) == (-1, ran, None)
    assert "do not run it again" in answer.exception_info
    assert "execution-one" in answer.exception_info


def test_extra_tells_what_the_output_lacks_and_how_long_it_took() -> None:
    output = Output(total_bytes=100, kept_bytes=10, truncated="limit", gap=(5, 95), sha256="0" * 64)
    answer = execute_answer(ended("exited", code=0).model_copy(update={"output": output}), b"abc\xff\xc3\xa9")
    assert answer.output == "abc\ufffdé"
    assert (answer.extra["truncated"], answer.extra["gap"], answer.extra["total_bytes"]) == ("limit", (5, 95), 100)
    assert (answer.extra["execution_id"], answer.extra["duration_s"], answer.extra["attempts"]) == ("execution-one", 2.5, 1)
