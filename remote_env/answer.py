"""From an execution to what `execute()` answers: the same dict in Python and over POST /execute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remote_env.protocol import ExecuteAnswer, Execution, Outcome

_START_FAILURES = {
    "no_process": "the sandbox has no process or memory left for it: end something in it, or make it with more pids or memory_bytes",
    "no_pipe": "the sandbox has no room for its output pipe: end something in it",
    "no_such_user": "the user or group does not exist in the image: name one from its /etc/passwd, or a number",
    "no_workdir": "the working directory cannot be entered: name one that exists and that the user may enter, or ask for it to be made",
    "no_stdin": "its standard input could not be handed over: send less of it, as a file",
    "sandbox_full": "too many executions are under way in the sandbox: wait for some of them to end",
    "too_long": "its arguments and environment are longer than the kernel allows: pass data on stdin or in a file",
}
_LOST = {
    "sandbox_died": "its sandbox died under it",
    "sandbox_removed": "its sandbox was removed under it",
    "engine_restarted": "the container engine was restarted under it",
    "host_restarted": "the machine was restarted under it",
    "journal_set_back": "the server's journal was set back to an earlier state",
    "init_unreachable": "its sandbox could not be reached any more and was ended",
}


def execute_answer(execution: Execution, output: bytes, stderr: bytes | None = None) -> ExecuteAnswer:
    """What `execute()` answers for an execution.

    Args:
        execution: one that is over; of one that is not, the answer says that it goes on.
        output: its kept bytes, head and tail in a row; shown as UTF-8, what is not becomes U+FFFD.
        stderr: the same of its stderr, where that was kept apart: `extra["stderr"]`.
    Returns:
        `returncode` as the contract's table has it, -1 where the command has no exit code of its own. `exception_info` is ""
        unless it is -1, and then one sentence: what happened, whether it ran, what to do.
    """
    outcome = execution.outcome
    over = execution.over and outcome is not None
    extra = _extra(execution, outcome)
    if stderr is not None:
        extra["stderr"] = stderr.decode("utf-8", "replace")
    returncode = outcome.returncode if over and outcome is not None else -1
    return ExecuteAnswer(
        output=output.decode("utf-8", "replace"), returncode=returncode,
        exception_info="" if returncode != -1 else sentence(execution), extra=extra,
    )  # fmt: skip


def sentence(execution: Execution) -> str:
    """What happened to an execution that has no exit code of its own: whether it ran, and what to do."""
    outcome = execution.outcome
    if not execution.over or outcome is None:
        return _unfinished(execution)
    return _SENTENCES[outcome.kind](execution, outcome)


def _duration_s(execution: Execution) -> float | None:
    begun = execution.started_at or execution.accepted_at
    if begun is None or execution.ended_at is None:
        return None
    return max(0.0, (execution.ended_at - begun).total_seconds())


def _extra(execution: Execution, outcome: Outcome | None) -> dict[str, Any]:
    output = execution.output
    return {
        "execution_id": execution.id,
        "sandbox_id": execution.sandbox_id,
        "state": execution.state,
        "outcome": None if outcome is None else outcome.kind,
        "ran": _ran(execution),
        "reason": None if outcome is None else outcome.reason,
        "signal": None if outcome is None else outcome.signal,
        "clock": None if outcome is None else outcome.clock,
        "errno": None if outcome is None else outcome.errno,
        "truncated": output.truncated,
        "gap": output.gap,
        "total_bytes": output.total_bytes,
        "kept_bytes": output.kept_bytes,
        "sha256": output.sha256,
        "output_open": output.output_open,
        "duration_s": _duration_s(execution),
        "cpu_s": execution.cpu_s,
        "max_rss_bytes": execution.max_rss_bytes,
        "oom_kills": execution.oom_kills,
        "waited_for_server_s": execution.waited_for_server_s,
        "attempts": execution.attempts,
    }


def _ran(execution: Execution) -> bool | str:
    if execution.outcome is not None:
        return execution.outcome.ran
    return True if execution.state == "running" else "unknown"


def _unfinished(execution: Execution) -> str:
    standing = "is running" if execution.state == "running" else "is accepted and may be running"
    return (
        f"The command {standing} and goes on, only this answer could not wait for its end: "
        f"do not run it again, ask for execution {execution.id} later."
    )  # fmt: skip


def _timed_out(execution: Execution, outcome: Outcome) -> str:
    duration_s = _duration_s(execution)
    after = "" if duration_s is None else f" after {duration_s:.1f} s"
    if outcome.clock == "idle":
        what, advice = "wrote no output for its whole idle timeout", "raise idle_timeout_s"
    else:
        what, advice = "did not end within its timeout", "raise the timeout"
    return (
        f"The command {what} and was killed{after}, with everything that it had started; "
        f"it ran, and its output until then is kept: {advice}, or let it do less."
    )  # fmt: skip


def _cancelled(execution: Execution, outcome: Outcome) -> str:
    why = f" ({outcome.reason})" if outcome.reason else ""
    if outcome.ran is False:
        return f"The command was cancelled before it started{why}: it did not run and never will; it can be run again."
    return (
        f"The command was cancelled{why} and killed with everything that it had started: "
        "it ran in part, and its output until then is kept; look at what it has changed before running it again."
    )  # fmt: skip


def _failed_to_start(execution: Execution, outcome: Outcome) -> str:
    reason = outcome.reason or "internal"
    advice = _START_FAILURES.get(reason, "see the server's log")
    number = "" if outcome.errno is None else f", errno {outcome.errno}"
    return f"The command could not be started ({reason}{number}), so it did not run: {advice}."


def _lost(execution: Execution, outcome: Outcome) -> str:
    reason = outcome.reason or ""
    what = _LOST.get(reason, "what it ran in is gone")
    ran = "it ran in part" if outcome.ran is True else "whether it ran cannot be known"
    return f"The command is lost, {what}: {ran}, there will be no result; make a new sandbox, and look before running it again."


def _not_run(execution: Execution, outcome: Outcome) -> str:
    why = f" ({outcome.reason})" if outcome.reason else ""
    return f"The command was not delivered{why}: it did not run and never will; it can be run again."


def _odd(execution: Execution, outcome: Outcome) -> str:
    return f"The command ended as {outcome.kind} without a code or signal: it ran; this is an error of the server, see its log."


_SENTENCES: dict[str, Callable[[Execution, Outcome], str]] = {
    "timed_out": _timed_out,
    "cancelled": _cancelled,
    "failed_to_start": _failed_to_start,
    "lost": _lost,
    "not_run": _not_run,
    # These have returncodes of their own; a sentence only for an answer that lacks what it should hold.
    "exited": _odd,
    "signalled": _odd,
    "oom": _odd,
    "oom_suspected": _odd,
}
