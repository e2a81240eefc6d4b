"""From what the init says of an ending to the outcome that callers see."""

from __future__ import annotations

import errno
import os
import signal

from remote_env.protocol import Outcome
from server.messages import Cause, Ending, EndingFlag, EndingKind, Stage

_NOT_EXECUTABLE = frozenset({errno.EACCES, errno.ENOEXEC, errno.EISDIR, errno.EPERM, errno.ETXTBSY})
_STAGE_REASONS = {
    Stage.FORK: "no_process",  # the pids limit, or no memory for one more
    Stage.PIPE: "no_pipe",
    Stage.USER: "no_such_user",
    Stage.WORKDIR: "no_workdir",
    Stage.STDIN: "no_stdin",
    Stage.CAPACITY: "sandbox_full",
    Stage.REQUEST: "bad_request",
    Stage.SESSION: "session_over",
}


def outcome_of(ending: Ending, *, cancelled_for: str | None = None, session_closed: bool = False) -> Outcome:
    """The outcome of an ending.

    Args:
        cancelled_for: why a cancel was asked for, where it was not the caller.
        session_closed: it is a command whose session was asked to end.
    """
    came_too_late = session_closed and ending.kind is EndingKind.FAILED_TO_START and ending.stage is Stage.SESSION
    if ending.kind is EndingKind.SKIPPED or came_too_late:
        return Outcome(kind="cancelled", ran=False, reason=cancelled_for)
    if ending.kind is EndingKind.FAILED_TO_START:
        return _failed_to_start(ending)
    if ending.cause is Cause.TOTAL:
        return Outcome(kind="timed_out", clock="total", ran=True)
    if ending.cause is Cause.IDLE:
        return Outcome(kind="timed_out", clock="idle", ran=True)
    if ending.cause is Cause.CANCEL:
        return Outcome(kind="cancelled", ran=True, reason=cancelled_for)
    if not os.WIFSIGNALED(ending.status):
        return Outcome(kind="exited", code=os.WEXITSTATUS(ending.status), ran=True)
    number = os.WTERMSIG(ending.status)
    if number == signal.SIGKILL and ending.oom_kills and not ending.flags & EndingFlag.KILLED_BY_US:
        alone = bool(ending.flags & EndingFlag.ALONE)
        return Outcome(
            kind="oom" if alone else "oom_suspected", signal=number, ran=True,
            reason="the memory limit; files in /dev/shm count too, and outlive the command",
        )  # fmt: skip
    reason = "runner_killed" if ending.flags & EndingFlag.RUNNER_KILLED else None
    return Outcome(kind="signalled", signal=number, ran=True, reason=reason)


def _failed_to_start(ending: Ending) -> Outcome:
    reason = _STAGE_REASONS.get(ending.stage, "internal")
    if ending.stage is Stage.EXEC:
        if ending.status in (errno.ENOENT, errno.ENOTDIR):
            reason = "not_found"
        elif ending.status in _NOT_EXECUTABLE:
            reason = "not_executable"
        elif ending.status == errno.E2BIG:
            reason = "too_long"
        else:
            reason = "cannot_execute"
    return Outcome(kind="failed_to_start", reason=reason, errno=ending.status or None, ran=False)
