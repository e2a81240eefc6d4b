"""SWE-ReX's `execute`: a command as `subprocess.run` would run it, in a sandbox."""

from __future__ import annotations

import errno
import os
import posixpath

from swerex.exceptions import CommandTimeoutError, NonZeroExitCodeError
from swerex.runtime.abstract import Command, CommandResponse

from remote_env.harness.swerex_failures import without_result
from remote_env.harness.swerex_text import shown
from remote_env.protocol import Execution, Output
from remote_env.sandbox import Sandbox

_SHELL = "/bin/sh"  # as subprocess has it
_LEAST_S = 0.001  # a timeout of 0 is over at once
_SIGKILL = 9
_NOT_STARTED = {127: errno.ENOENT, 126: errno.EACCES}  # what `env` exits with where it cannot start a program


def execute(sandbox: Sandbox, command: Command) -> CommandResponse:
    """Runs it at most once, apart from any session, and waits for its end.

    Raises CommandTimeoutError, NonZeroExitCodeError (`check`), FileNotFoundError, PermissionError and their like (what could not be
    started), SandboxFailure (no result), and what `Sandbox.run` raises.
    """
    workdir = posixpath.join(sandbox.record.workdir or "/", command.cwd) if command.cwd else None
    words, shell = _words(command)
    execution = sandbox.run(
        words,
        shell=shell,
        workdir=workdir,
        streams="merged" if command.merge_output_streams else "split",
        timeout_s=None if command.timeout is None else max(command.timeout, _LEAST_S),
    )
    record = execution.record
    outcome = record.outcome
    if outcome is not None and outcome.kind == "timed_out":
        raise CommandTimeoutError(f"Timeout ({command.timeout}s) exceeded while running command")
    exit_code = _exit_code(record)
    if exit_code is None:
        raise without_result(record, shell or words[0], workdir)
    response = CommandResponse(
        stdout=shown(execution.output(), record.output),
        stderr="" if command.merge_output_streams else shown(execution.stderr(), record.stderr or Output()),
        exit_code=exit_code,
    )
    if command.env is not None and exit_code in _NOT_STARTED and (response.stderr or response.stdout).startswith("env: "):
        number = _NOT_STARTED[exit_code]
        raise OSError(number, os.strerror(number), words[2 + len(command.env)])
    if command.check and exit_code != 0:
        message = (
            f"Command {command.command!r} failed with exit code {exit_code}. Stdout:\n{response.stdout!r}\nStderr:\n{response.stderr!r}"
        )
        raise NonZeroExitCodeError(f"{command.error_msg}: {message}" if command.error_msg else message)
    return response


def _words(command: Command) -> tuple[str | list[str], str | None]:
    """What is run, and by which shell, as `subprocess.run` does it: of a list with shell=True the first is the script, the others are
    its arguments."""
    given = [command.command] if isinstance(command.command, str) else list(command.command)
    if command.shell and command.env is None and len(given) == 1 and given[0]:
        return given[0], _SHELL  # it may be longer than an argument
    argv = [_SHELL, "-c", *given] if command.shell else given
    if command.env is not None:  # these variables and no others
        argv = ["env", "-i", *(f"{name}={value}" for name, value in command.env.items()), *argv]
    return argv, None


def _exit_code(record: Execution) -> int | None:
    """As subprocess has it: -n for what died of signal n."""
    outcome = record.outcome
    if outcome is None:
        return None
    if outcome.kind == "exited":
        return outcome.code
    if outcome.kind == "signalled" and outcome.signal is not None:
        return -outcome.signal
    return -_SIGKILL if outcome.kind in ("oom", "oom_suspected") else None
