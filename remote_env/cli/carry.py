"""Runs one command in a sandbox for `run` and `exec`: its output as it comes, its end as an exit code."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from remote_env.cli import failures, screen
from remote_env.cli.interrupts import Interrupts
from remote_env.errors import InvalidSpec, RemoteEnvError
from remote_env.events import OutputPiece

if TYPE_CHECKING:
    from remote_env.execution import Execution
    from remote_env.sandbox import Sandbox


def carry_out(
    sandbox: Sandbox, command: str | list[str], options: dict[str, Any], interrupts: Interrupts, *, split: bool | None, as_json: bool
) -> int:
    """Runs it and returns the exit code. With `as_json` the output comes in one document at the end.

    `split`: keep its stdout and stderr apart; None: where they go to different places here.
    Raises RemoteEnvError; KeyboardInterrupt for a second signal, when the command may still be running.
    """
    execution = _start(sandbox, command, options, split, as_json)
    left = threading.Event()
    interrupts.cancel_with(lambda: _call_off(execution, left))
    try:
        if not as_json:
            show_output(execution)
        execution.wait()
    except KeyboardInterrupt:
        left.set()
        if interrupts.cancelled:
            screen.warn(f"left at once; execution {execution.id} was told to end and may take a moment.")
        else:
            screen.warn(f"left at once; execution {execution.id} may go on: `remote-env kill {execution.id}` ends it.")
        raise
    except BrokenPipeError:
        _cancel(execution)  # whoever read its output has gone
        raise
    except screen.NotWritten:
        _cancel(execution)
        screen.warn(f"execution {execution.id} was cancelled: its output could not be written here.")
        raise
    interrupts.settle()
    execution.wait()
    code = failures.exit_code(execution.record, interrupts.signal)
    for line in failures.remarks(execution.record, command, interrupted=interrupts.signal is not None):
        screen.warn(line)
    if as_json:
        screen.print_json(execution_document(execution) | {"exit_code": code})
    return code


def _start(sandbox: Sandbox, command: str | list[str], options: dict[str, Any], split: bool | None, as_json: bool) -> Execution:
    if split is not None:
        return sandbox.start(command, **options, streams="split" if split else "merged")
    if as_json or _is_stdout_stderr():
        return sandbox.start(command, **options)
    try:
        return sandbox.start(command, **options, streams="split")
    except InvalidSpec:  # a sandbox from before an upgrade keeps no streams apart; whatever else is wrong is told again
        return sandbox.start(command, **options)


def _is_stdout_stderr() -> bool:
    """Whether our stdout and stderr are one terminal, file or pipe: there, only merged output keeps the order written."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (OSError, ValueError):  # one of them is closed
        return False


def show_output(execution: Execution) -> None:
    """Its output as it comes, up to its end: stdout to stdout, stderr to stderr. Raises what following it raises."""
    with execution.stream() as events:
        for event in events:
            if isinstance(event, OutputPiece):
                screen.write_bytes(event.data, sys.stderr if event.stream == "stderr" else None)


def execution_document(execution: Execution) -> dict[str, Any]:
    """An execution as the wire has it, with all of its kept output. Raises OutputIncomplete."""
    document = execution.record.model_dump(mode="json")
    if execution.over and not execution.record.output.purged:
        document["output"] |= text_or_base64(execution.output())
        if execution.streams == "split":
            document["stderr"] |= text_or_base64(execution.stderr())
    return document


def text_or_base64(data: bytes) -> dict[str, str | None]:
    try:
        return {"text": data.decode(), "base64": None, "encoding": "utf-8"}
    except UnicodeDecodeError:
        import base64

        return {"text": None, "base64": base64.b64encode(data).decode(), "encoding": "base64"}


def read_stdin() -> bytes:
    """All of our own stdin."""
    if sys.stdin.isatty():
        screen.note("reading standard input up to Ctrl-D")
    return sys.stdin.buffer.read()


def _call_off(execution: Execution, left: threading.Event) -> None:
    """`left` is set by a caller who does not wait for this any more, and has told so."""
    hint = "; Ctrl-C again leaves without waiting for its end" if sys.stdin.isatty() else ""
    newline = "\n" if sys.stdin.isatty() else ""  # after the terminal's ^C
    screen.note(f"{newline}cancelling the command{hint}")
    try:
        execution.cancel()
    except RemoteEnvError as error:
        if not left.is_set():
            _tell_uncancelled(error)


def _cancel(execution: Execution) -> None:
    try:
        execution.cancel()
    except RemoteEnvError as error:
        _tell_uncancelled(error)


def _tell_uncancelled(error: RemoteEnvError) -> None:
    screen.warn(f"it could not be cancelled: {error}")
