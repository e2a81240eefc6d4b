"""What becomes of a job by how its commands ended: one table, and the two rates."""

from __future__ import annotations

from typing import Any

import pytest

from remote_env.batch.fate import Fate, Ruling, ruling
from remote_env.batch.plan import Conclude, judge, require_artifacts
from remote_env.batch.results import ArtifactResult, CommandResult
from remote_env.batch.summary import summarize
from remote_env.errors import (
    AnswerMismatch,
    EpochChanged,
    IdConflict,
    ImageNotFound,
    InvalidSpec,
    LinkLost,
    NoSpace,
    OutcomeUnknownError,
    ProtocolMismatch,
    RemoteEnvError,
    SandboxFileNotFound,
    SandboxGone,
    SandboxNotCreated,
    ServerBusy,
    Unauthorized,
    Unreachable,
)
from tests.unit.batch.builders import command, job, result

ONE: dict[str, Any] = {}
TWO = {"commands": ["a", "b"]}
ON = {"commands": [{"command": "a", "continue_on_failure": True}, "b"]}
SETUP = {"setup": ["s"]}
SETUP_ON = {"setup": [{"command": "s", "continue_on_failure": True}]}
CLOCK = {"commands": ["a", "b"], "timeout_s": 10.0}
CLOCK_SETUP = {"setup": ["s"], "timeout_s": 10.0}
OK, BAD = command(), command(code=3)


@pytest.mark.parametrize(
    ("fields", "ended", "outcome", "reason"),
    [
        (ONE, [], None, None),
        (ONE, [OK], "passed", None),
        (ONE, [BAD], "failed", "command 1 exited with 3"),
        ({"commands": [{"command": "a", "name": "tests"}]}, [BAD], "failed", "command 1 (tests) exited with 3"),
        (ONE, [command("signalled", signal=11)], "failed", "command 1 died of signal 11"),
        (ONE, [command("oom")], "failed", "command 1 ran into the memory limit"),
        (ONE, [command("oom_suspected")], "failed", "command 1 ran into the memory limit, as it seems"),
        (ONE, [command("failed_to_start", reason="not_found")], "failed", "command 1 could not be started: not found"),
        (ONE, [command("failed_to_start", reason="no_process")], "failed", "command 1 could not be started: no process"),
        (ONE, [command("failed_to_start", reason="no_such_user")], "error", "command 1 could not be started: no such user"),
        (ONE, [command("timed_out", clock="total", timeout_s=5.0)], "timed_out", "command 1 was ended after 5 s"),
        (ONE, [command("cancelled")], "error", "command 1 was cancelled"),
        (ONE, [command("not_run")], "error", "command 1 was not run"),
        (ONE, [command("lost", reason="sandbox_died")], "lost", "command 1 was lost: sandbox died"),
        (TWO, [OK], None, None),
        (TWO, [BAD], "failed", "command 1 exited with 3"),
        (TWO, [OK, BAD], "failed", "command 2 exited with 3"),
        (ON, [BAD], None, None),
        (ON, [BAD, OK], "failed", "command 1 exited with 3"),
        (ON, [BAD, command(code=4)], "failed", "command 1 exited with 3"),
        (ON, [BAD, command("timed_out", timeout_s=5.0)], "failed", "command 1 exited with 3"),
        (ON, [BAD, command("lost", reason="host_restarted")], "lost", "command 2 was lost: host restarted"),
        (ON, [command("lost", reason="sandbox_died")], "lost", "command 1 was lost: sandbox died"),
        (ON, [command("cancelled")], "error", "command 1 was cancelled"),
        (SETUP, [OK], None, None),
        (SETUP, [OK, OK], "passed", None),
        (SETUP, [OK, BAD], "failed", "command 1 exited with 3"),
        (SETUP, [BAD], "error", "setup command 1 exited with 3"),
        (SETUP, [command("timed_out", timeout_s=5.0)], "error", "setup command 1 was ended after 5 s"),
        (SETUP, [command("lost", reason="sandbox_died")], "lost", "setup command 1 was lost: sandbox died"),
        (SETUP_ON, [BAD], None, None),
        (SETUP_ON, [BAD, OK], "passed", None),
        (SETUP_ON, [command("lost", reason="sandbox_died")], "lost", "setup command 1 was lost: sandbox died"),
        (CLOCK, [command(seconds=9.0)], None, None),
        (CLOCK, [command(seconds=10.0)], "timed_out", "the job's 10 s were over before command 2"),
        (CLOCK, [command(seconds=10.0), command(seconds=0.0)], "passed", None),
        (CLOCK, [command(code=3, seconds=11.0)], "failed", "command 1 exited with 3"),
        (CLOCK_SETUP, [command(seconds=11.0)], "timed_out", "the job's 10 s were over before command 1"),
        ({**SETUP, "setup": ["s", "t"], "timeout_s": 1.0}, [OK], "error", "the job's 1 s were over before setup command 2"),
    ],
)  # fmt: skip
def test_outcome_of_a_job(fields: dict[str, Any], ended: list[CommandResult], outcome: str | None, reason: str | None) -> None:
    verdict = judge(job(**fields), tuple(ended))
    assert (verdict and verdict.outcome, verdict and verdict.reason) == (outcome, reason)


def test_a_required_artifact_that_is_missing_makes_an_error_of_a_job_that_passed_and_of_no_other() -> None:
    of = job(artifacts=["/x", {"path": "/y", "required": True}])
    fetched = (ArtifactResult(path="/x", error="no such file"), ArtifactResult(path="/y", error="no such file"))
    assert require_artifacts(of, Conclude("passed"), fetched) == Conclude("error", "required artifact missing: /y")
    assert require_artifacts(of, Conclude("failed", "why"), fetched) == Conclude("failed", "why")
    there = (fetched[0], ArtifactResult(path="/y", file="jobs/a/1/artifacts/y"))
    assert require_artifacts(of, Conclude("passed"), there) == Conclude("passed")


def undelivered() -> SandboxNotCreated:
    error = SandboxNotCreated("got lost")
    error.undelivered = True
    return error


@pytest.mark.parametrize(
    ("error", "never_started", "started", "dead"),
    [
        (ServerBusy("x"), Fate.WAIT, Fate.LOST, False),
        (ImageNotFound("x"), Fate.ERROR, Fate.ERROR, False),
        (InvalidSpec("x"), Fate.ERROR, Fate.ERROR, False),
        (IdConflict("x"), Fate.AGAIN, Fate.LOST, False),
        (SandboxFileNotFound("x"), Fate.ERROR, Fate.ERROR, False),
        (NoSpace("x"), Fate.ERROR, Fate.ERROR, False),
        (SandboxNotCreated("x"), Fate.ERROR, Fate.LOST, False),
        (undelivered(), Fate.AGAIN, Fate.LOST, False),
        (SandboxGone("x"), Fate.AGAIN, Fate.LOST, False),
        (EpochChanged("x"), Fate.AGAIN, Fate.LOST, False),
        (OutcomeUnknownError("x"), Fate.AGAIN, Fate.LOST, False),
        (LinkLost("x"), Fate.MOVE, Fate.LOST, True),
        (AnswerMismatch("x"), Fate.MOVE, Fate.LOST, True),
        (Unreachable("x"), Fate.MOVE, Fate.LOST, True),
        (Unauthorized("x"), Fate.MOVE, Fate.LEAVE, True),
        (ProtocolMismatch("x"), Fate.MOVE, Fate.LEAVE, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, RemoteEnvError) else None,
)  # fmt: skip
def test_what_an_error_means_depends_on_whether_anything_ran(error: RemoteEnvError, never_started: Fate, started: Fate, dead: bool) -> None:
    assert ruling(error, started=False) == Ruling(never_started, dead)
    assert ruling(error, started=True) == Ruling(started, dead)


def test_infrastructure_is_never_counted_as_the_candidates_failure() -> None:
    results = [
        result("a"),
        result("b", "failed"),
        result("c", "timed_out"),
        result("d", "passed"),
        result("e", "lost"),
        result("f", "error"),
    ]
    summary = summarize(results)
    assert (summary.pass_rate, summary.infrastructure_rate, summary.exit_code) == (0.5, 2 / 6, 3)


def test_the_last_line_of_an_id_counts() -> None:
    summary = summarize([result("a", "lost"), result("b"), result("a", attempt=2)])
    assert (summary.counts["lost"], summary.counts["passed"], summary.retried, summary.exit_code) == (0, 2, 1, 0)


@pytest.mark.parametrize(
    ("outcomes", "code"), [(["passed"], 0), (["passed", "failed"], 1), (["timed_out"], 1), (["failed", "lost"], 3), (["error"], 3)]
)
def test_exit_code(outcomes: list[Any], code: int) -> None:
    assert summarize([result(str(number), outcome) for number, outcome in enumerate(outcomes)]).exit_code == code


def test_jobs_without_a_result_are_no_success() -> None:
    summary = summarize([result("a")], total=2)
    assert (summary.unfinished, summary.exit_code) == (1, 3)


def test_no_jobs_have_no_rates() -> None:
    assert (summarize([]).pass_rate, summarize([]).infrastructure_rate) == (None, None)
