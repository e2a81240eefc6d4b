"""From an ending to the outcome and the returncode that callers see: the contract's table."""

from __future__ import annotations

import errno
import signal
from typing import Any

import pytest

from remote_env.protocol import Outcome
from server.messages import Cause, Ending, EndingFlag, EndingKind, Stage
from server.outcomes import outcome_of

EXITED, FAILED = EndingKind.EXITED, EndingKind.FAILED_TO_START
ALONE, BY_US, RUNNER = EndingFlag.ALONE, EndingFlag.KILLED_BY_US, EndingFlag.RUNNER_KILLED
KILLED = int(signal.SIGKILL)


def ended(status: int, **facts: Any) -> Ending:
    return Ending(EXITED, status=status, **facts)


def failed(stage: Stage, number: int) -> Ending:
    return Ending(FAILED, stage=stage, status=number)


TABLE: list[tuple[str, Ending, dict[str, Any], int]] = [
    ("exit 0", ended(0), {"kind": "exited", "code": 0, "ran": True}, 0),
    ("exit 255", ended(255 << 8), {"kind": "exited", "code": 255, "ran": True}, 255),
    ("its child was OOM-killed, it exited", ended(137 << 8, oom_kills=1, flags=ALONE), {"kind": "exited", "code": 137, "ran": True}, 137),
    ("SIGSEGV, with a core", ended(signal.SIGSEGV | 0x80), {"kind": "signalled", "signal": 11, "ran": True}, 139),
    ("SIGTERM of its own", ended(signal.SIGTERM), {"kind": "signalled", "signal": 15, "ran": True}, 143),
    ("SIGKILL, no OOM", ended(KILLED), {"kind": "signalled", "signal": 9, "ran": True}, 137),
    ("its runner was killed", ended(KILLED, flags=RUNNER), {"kind": "signalled", "signal": 9, "ran": True, "reason": "runner_killed"}, 137),
    ("OOM, alone", ended(KILLED, oom_kills=1, flags=ALONE), {"kind": "oom", "signal": 9, "ran": True}, 137),
    ("OOM, in company", ended(KILLED, oom_kills=1), {"kind": "oom_suspected", "signal": 9, "ran": True}, 137),
    ("OOM elsewhere, killed by us", ended(KILLED, oom_kills=1, flags=BY_US | ALONE), {"kind": "signalled", "signal": 9, "ran": True}, 137),
    ("another signal while the counter rose", ended(signal.SIGTERM, oom_kills=1), {"kind": "signalled", "signal": 15, "ran": True}, 143),
    ("total clock, killed", ended(KILLED, cause=Cause.TOTAL, flags=BY_US), {"kind": "timed_out", "clock": "total", "ran": True}, -1),
    ("total clock, exited on TERM", ended(0, cause=Cause.TOTAL), {"kind": "timed_out", "clock": "total", "ran": True}, -1),
    ("idle clock", ended(KILLED, cause=Cause.IDLE), {"kind": "timed_out", "clock": "idle", "ran": True}, -1),
    ("cancelled while it ran", ended(KILLED, cause=Cause.CANCEL), {"kind": "cancelled", "ran": True}, -1),
    ("cancelled before it ran", Ending(EndingKind.SKIPPED), {"kind": "cancelled", "ran": False}, -1),
    ("no such program", failed(Stage.EXEC, errno.ENOENT), {"kind": "failed_to_start", "reason": "not_found", "ran": False}, 127),
    ("its directory is a file", failed(Stage.EXEC, errno.ENOTDIR), {"kind": "failed_to_start", "reason": "not_found", "ran": False}, 127),
    ("not executable", failed(Stage.EXEC, errno.EACCES), {"kind": "failed_to_start", "reason": "not_executable", "ran": False}, 126),
    ("a directory", failed(Stage.EXEC, errno.EISDIR), {"kind": "failed_to_start", "reason": "not_executable", "ran": False}, 126),
    ("wrong format", failed(Stage.EXEC, errno.ENOEXEC), {"kind": "failed_to_start", "reason": "not_executable", "ran": False}, 126),
    ("argument list too long", failed(Stage.EXEC, errno.E2BIG), {"kind": "failed_to_start", "reason": "too_long", "ran": False}, -1),
    ("exec failed otherwise", failed(Stage.EXEC, errno.EIO), {"kind": "failed_to_start", "reason": "cannot_execute", "ran": False}, -1),
    ("pids limit", failed(Stage.FORK, errno.EAGAIN), {"kind": "failed_to_start", "reason": "no_process", "ran": False}, -1),
    ("no pipe", failed(Stage.PIPE, errno.EMFILE), {"kind": "failed_to_start", "reason": "no_pipe", "ran": False}, -1),
    ("no such user", failed(Stage.USER, 0), {"kind": "failed_to_start", "reason": "no_such_user", "ran": False}, -1),
    ("no such directory", failed(Stage.WORKDIR, errno.ENOENT), {"kind": "failed_to_start", "reason": "no_workdir", "ran": False}, -1),
    ("stdin", failed(Stage.STDIN, errno.EIO), {"kind": "failed_to_start", "reason": "no_stdin", "ran": False}, -1),
    ("a full table", failed(Stage.CAPACITY, 0), {"kind": "failed_to_start", "reason": "sandbox_full", "ran": False}, -1),
    ("a request it cannot read", failed(Stage.REQUEST, 0), {"kind": "failed_to_start", "reason": "bad_request", "ran": False}, -1),
    ("no stage given", failed(Stage.NONE, 0), {"kind": "failed_to_start", "reason": "internal", "ran": False}, -1),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "expected", "returncode"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_an_ending_becomes_its_outcome_and_returncode(ending: Ending, expected: dict[str, Any], returncode: int) -> None:
    outcome = outcome_of(ending)
    shown = outcome.model_dump(exclude_none=True, exclude={"errno"} | ({"reason"} if outcome.kind.startswith("oom") else set()))
    assert (shown, outcome.returncode) == (expected, returncode)


def test_every_stage_has_a_reason_of_its_own() -> None:
    reasons = [outcome_of(failed(stage, 0)).reason for stage in Stage]
    assert len(set(reasons)) == len(Stage)


@pytest.mark.parametrize(("number", "shown"), [(errno.ENOENT, errno.ENOENT), (0, None)])
def test_an_errno_is_shown_where_there_was_one(number: int, shown: int | None) -> None:
    assert outcome_of(failed(Stage.WORKDIR, number)).errno == shown


@pytest.mark.parametrize("ending", [Ending(EndingKind.SKIPPED), ended(KILLED, cause=Cause.CANCEL)], ids=["skipped", "killed"])
def test_a_cancel_that_was_a_removal_says_so(ending: Ending) -> None:
    assert outcome_of(ending, cancelled_for="sandbox_removed").reason == "sandbox_removed"


def test_an_oom_says_that_files_in_memory_count_too() -> None:
    assert "/dev/shm" in str(outcome_of(ended(KILLED, oom_kills=1)).reason)


def test_no_ending_gets_an_invented_exit_code() -> None:
    """Only `exited` carries a code."""
    for _, ending, expected, _code in TABLE:
        assert (outcome_of(ending).code is not None) is (expected["kind"] == "exited")


@pytest.mark.parametrize("ran", [True, "unknown"])
def test_lost_has_no_returncode_of_its_own(ran: Any) -> None:
    assert Outcome(kind="lost", reason="sandbox_died", ran=ran).returncode == -1
    assert Outcome(kind="not_run", reason="abandoned", ran=False).returncode == -1
