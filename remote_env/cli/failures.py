"""From what became of a command, or of a call, to an exit code and a line that says so."""

from __future__ import annotations

from typing import Any

from remote_env.answer import sentence
from remote_env.cli.codes import DID_NOT_RUN, INTERRUPTED, LOST_OR_UNKNOWN, TIMED_OUT, USAGE
from remote_env.cli.quantities import show_size, signal_name
from remote_env.errors import (
    CommandLost,
    InvalidSpec,
    MisuseError,
    NotRunError,
    OutcomeUnknownError,
    OutputIncomplete,
    RemoteEnvError,
    SandboxGone,
)
from remote_env.protocol import Execution, Output


def exit_code(execution: Execution, interrupt: int | None = None) -> int:
    """What `run` and `exec` exit with for an execution that is over. `interrupt` is the signal that made us cancel it."""
    outcome = execution.outcome
    if outcome is None:
        return LOST_OR_UNKNOWN
    if outcome.kind == "cancelled":
        if interrupt is not None:
            return 128 + interrupt
        return DID_NOT_RUN if outcome.ran is False else INTERRUPTED
    if outcome.kind == "failed_to_start":
        return outcome.returncode if outcome.returncode > 0 else DID_NOT_RUN
    fixed = {"timed_out": TIMED_OUT, "lost": LOST_OR_UNKNOWN, "not_run": DID_NOT_RUN}
    return fixed.get(outcome.kind, outcome.returncode)


def error_code(error: RemoteEnvError) -> int:
    """What `run` and `exec` exit with for an error."""
    if isinstance(error, InvalidSpec):
        return USAGE
    if isinstance(error, (NotRunError, SandboxGone, MisuseError)):
        return DID_NOT_RUN
    if isinstance(error, (OutcomeUnknownError, CommandLost, OutputIncomplete)):
        return LOST_OR_UNKNOWN
    # ProtocolMismatch: of a server that we never understood, nothing was asked. SignalNotSent: nothing was done.
    return DID_NOT_RUN


def error_document(error: RemoteEnvError, code: int) -> dict[str, Any]:
    """The JSON of an error."""
    about = {"execution_id": error.execution_id, "sandbox_id": error.sandbox_id}
    return error_of(type(error).__name__, str(error), code) | {"about": {name: id for name, id in about.items() if id}}


def error_of(kind: str, message: str, code: int) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "exit_code": code}}


def remarks(execution: Execution, command: str | list[str] | None = None, *, interrupted: bool = False) -> list[str]:
    """What a person has to be told of an execution that is over, one line each; none where exit code and output say all.
    `interrupted`: it was that person who cancelled it."""
    outputs = (
        [("The output", execution.output)] if execution.stderr is None else [("stdout", execution.output), ("stderr", execution.stderr)]
    )
    found = [_of_outcome(execution, command, interrupted), *(_of_output(name, output) for name, output in outputs)]
    lines = [line for line in found if line]
    if execution.waited_for_server_s >= 1:
        lines.append(f"The command stood still for {execution.waited_for_server_s:.0f} s, its output full, while the server was away.")
    if execution.attempts > 1:
        lines.append(f"The command only reads, so it was run again when its first answer was lost: {execution.attempts} executions.")
    return lines


def _of_outcome(execution: Execution, command: str | list[str] | None, interrupted: bool) -> str | None:
    outcome = execution.outcome
    if outcome is None:
        return sentence(execution)
    if outcome.kind == "exited":
        return None
    if outcome.kind == "cancelled" and interrupted:
        ended = "before it started" if outcome.ran is False else "and everything that it had started was ended"
        return f"The command was cancelled, {ended}."
    if outcome.kind == "signalled":
        return f"The command died of {signal_name(outcome.signal or 0)}."
    if outcome.kind == "oom":
        return "The command was killed: it used more memory than the sandbox may have (--memory)."
    if outcome.kind == "oom_suspected":
        return "The command was killed, most likely because the sandbox used more memory than it may have (--memory)."
    if outcome.kind == "failed_to_start" and outcome.returncode > 0:
        program = f" {command[0]!r}" if isinstance(command, list) else ""
        what = "was not found in the sandbox" if outcome.returncode == 127 else "cannot be executed"
        hint = "" if program == "" or len(command or ()) > 1 else "; for a shell's own words or a command line, use -c"
        return f"The program{program} {what}, so nothing ran{hint}."
    return sentence(execution)


def _of_output(name: str, output: Output) -> str | None:
    if output.purged:
        return f"{name} was removed from the server."
    if output.truncated is None:
        return None
    dropped = show_size(output.total_bytes - output.kept_bytes)
    kept = f"{show_size(output.kept_bytes)} of {show_size(output.total_bytes)} are kept"
    if output.truncated == "disk_full":
        return f"{name} is cut: the server's disk was full; {kept}."
    where = f", from byte {output.gap[0]:,} on" if output.gap else ""
    return f"{name} is cut: {dropped} in its middle were dropped{where}; {kept} (--output-limit)."
