"""What became of an execution, in Inspect's words: an ExecResult, or the exception that Inspect's own sandboxes raise for it.

| it                                                   | Inspect gets |
|------------------------------------------------------|---|
| exited, died of a signal, met the memory limit       | ExecResult with its code, 128 + n, 137 |
| timed out                                            | TimeoutError, with the output until then; every process of it is dead |
| wrote more to a stream than Inspect takes            | OutputLimitExceededError |
| cannot be executed by its user                       | PermissionError |
| no such program; no such user or directory, too long | ExecResult 127; 126; the reason on stderr |
| did not run, for the sandbox or the server cannot    | SandboxUnavailableError |
| was lost with its sandbox                            | SandboxUnavailableError, which says whether it ran |
| may have run, nobody can say                         | OutcomeUnknown, a RuntimeError with the execution's id |
"""

from __future__ import annotations

import errno
import os

import inspect_ai.util
from inspect_ai.util import ExecResult, OutputLimitExceededError

from remote_env import protocol
from remote_env.answer import sentence
from remote_env.errors import CommandLost, FileError, MisuseError, NotRunError, RemoteEnvError, SandboxGone

# Older releases of Inspect have no such error.
SandboxUnavailableError: type[RuntimeError] = getattr(inspect_ai.util, "SandboxUnavailableError", RuntimeError)

# Reasons of a failed start that lie in the command, as a shell would tell its caller: `docker exec` answers with these codes, too.
_OWN_FAULTS = {"not_found": 127, "not_executable": 126, "cannot_execute": 126, "too_long": 126, "no_such_user": 126, "no_workdir": 126}


class OutcomeUnknown(RuntimeError):
    """The command may have run, may be running, or may never run: it was not run again. `execution_id` names it where it is known:
    `remote-env logs ID` shows what it says."""

    def __init__(self, message: str, execution_id: str | None) -> None:
        super().__init__(message)
        self.execution_id = execution_id


def exec_result(
    record: protocol.Execution, stdout: bytes, stderr: bytes, *, cmd: list[str], user: str | None, timeout: float | None, limit: str
) -> ExecResult[str]:
    """The result of an execution that is over, from its record and what is kept of its output; or raises as the table says.

    Args:
        user, timeout: as they were asked for.
        limit: Inspect's limit for one stream in words.
    """
    outcome = record.outcome
    texts = stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")
    kind = "lost" if outcome is None else outcome.kind
    if kind == "timed_out":
        error = TimeoutError(f"Command timed out after {timeout:g} seconds")
        if any(texts):
            error.truncated_output = "".join(texts)  # type: ignore[attr-defined]  # Inspect shows it to the model
        raise error
    if kind == "failed_to_start" and outcome is not None:
        return _not_started(record, outcome, cmd, user)
    if outcome is None or kind in ("lost", "not_run") or (kind == "cancelled" and outcome.ran is False):
        raise SandboxUnavailableError(f"{sentence(record)} (execution {record.id})")
    if kind == "cancelled":  # by somebody else: a call of our own that is cancelled returns nothing
        raise OutcomeUnknown(f"{sentence(record)} (execution {record.id})", record.id)
    cuts = {record.output.truncated, record.stderr.truncated if record.stderr is not None else None}
    if "limit" in cuts:
        raise OutputLimitExceededError(limit, "".join(texts))
    if "disk_full" in cuts:
        raise OutcomeUnknown(f"The server's disk is full: the command ran, its output is not whole (execution {record.id}).", record.id)
    note = ""
    if kind in ("oom", "oom_suspected"):
        note = "Killed: the sandbox reached its memory limit.\n"
    return ExecResult(outcome.returncode == 0, outcome.returncode, texts[0], texts[1] + note)


def translated(error: RemoteEnvError) -> Exception:
    """The exception that Inspect gets for one of ours, of a command that has no record."""
    message = str(error) if error.execution_id is None else f"{error} (execution {error.execution_id})"
    if isinstance(error, MisuseError):
        return ValueError(message)
    if isinstance(error, (NotRunError, SandboxGone, CommandLost, FileError)):
        return SandboxUnavailableError(message)
    return OutcomeUnknown(message, error.execution_id)


def _not_started(record: protocol.Execution, outcome: protocol.Outcome, cmd: list[str], user: str | None) -> ExecResult[str]:
    reason = outcome.reason or ""
    if reason not in _OWN_FAULTS:
        raise SandboxUnavailableError(f"{sentence(record)} (execution {record.id})")
    if outcome.errno in (errno.EACCES, errno.EPERM, errno.EISDIR) and reason == "not_executable":
        raise PermissionError(outcome.errno, os.strerror(errno.EACCES), cmd[0])
    about = f"user {user}" if reason == "no_such_user" else cmd[0][:200]
    return ExecResult(False, _OWN_FAULTS[reason], "", f"{about}: {sentence(record)}\n")


def argument_too_long(cmd: list[str]) -> ExecResult[str]:
    """The result of a command that need not be sent: it would not start."""
    words = "the kernel takes less than 128 KiB in one argument: hand it over by `input` or as a file"
    return ExecResult(False, _OWN_FAULTS["too_long"], "", f"{cmd[0][:200]}: Argument list too long, so it did not run: {words}.\n")
