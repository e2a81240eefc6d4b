"""`shell`: a person's terminal in a sandbox, or a script for its shell."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remote_env.cli import options, screen
from remote_env.cli.codes import LOST_OR_UNKNOWN
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.words import WordsCommand, command_of

if TYPE_CHECKING:
    from remote_env.cli.attached import Attachment, Ending
    from remote_env.cli.rawmode import RawTerminal
    from remote_env.client import Client
    from remote_env.execution import Execution
    from remote_env.sandbox import Sandbox

_REPLAYED_BYTES = 8 << 10  # of what an attached program has said, so that there is something to see
_SIGNALLED = 128
_UNAUTHORIZED = 401


def register(app: typer.Typer) -> None:
    command(app, "shell", cls=WordsCommand, runs_commands=True)(shell)


def shell(
    invocation: Invocation,
    name: Annotated[str, typer.Argument(metavar="SANDBOX", hidden=True)],
    words: Annotated[list[str] | None, typer.Argument(metavar="[[--] COMMAND...]", hidden=True)] = None,
    env: options.Environment = None,
    workdir: options.Workdir = None,
    user: options.User = None,
    attach: Annotated[str | None, typer.Option("--attach", metavar="EXECUTION", help="Take up a shell that was left before.")] = None,
) -> int:
    """Open a shell in a sandbox, or run COMMAND on a terminal there.

    Keys go to the program, Ctrl-C too. ~. at the beginning of a line leaves it running; --attach comes back to it. After a
    broken link the same program is taken up where it was. What is piped in is a script for the shell, without a terminal.

    \b
    Examples:
      remote-env shell $SANDBOX
      remote-env shell $SANDBOX -u root -- python3
      remote-env shell --attach $EXECUTION $SANDBOX
      echo 'uname -a; exit 3' | remote-env shell $SANDBOX

    \b
    Exit code: the program's own; 123 lost, unknown or left running; 125 did not run.
    """
    if attach is not None and (words or env or workdir or user):
        raise typer.BadParameter("takes up a program as it is; leave COMMAND, --env, --workdir and --user out", param_hint="--attach")
    if invocation.as_json:
        raise typer.BadParameter("a terminal has no JSON; `exec --json` runs a command", param_hint="--json")
    what = command_of(words, None, False) if words else None
    spec = {"env": options.environment_of(env), "workdir": workdir, "user": user}
    if attach is None and not sys.stdin.isatty():
        return _run_script(invocation, name, what, spec)

    from remote_env.cli.lookup import find_execution, find_sandbox
    from remote_env.cli.terminaldial import require_websockets

    require_websockets()
    with invocation.client() as client:
        sandbox = find_sandbox(client, name)
        if attach is None:
            return _show(client, _start(sandbox, what, spec), offset=0)
        execution = sandbox.attach(find_execution(client, attach).id).execution
        return _show(client, execution, offset=max(0, execution.record.output.total_bytes - _REPLAYED_BYTES))


def _run_script(invocation: Invocation, name: str, what: str | list[str] | None, spec: dict[str, Any]) -> int:
    """Standard input is not a terminal: it is read to its end, and the shell reads it as `exec --stdin` would let it."""
    from remote_env.cli.carry import carry_out, read_stdin
    from remote_env.cli.interrupts import Interrupts
    from remote_env.cli.lookup import find_sandbox
    from remote_env.terminal_base import SHELL_COMMAND

    given = {**spec, "stdin": read_stdin(), "timeout_s": None}
    with Interrupts() as interrupts, invocation.client() as client:
        try:
            sandbox = find_sandbox(client, name)
            return carry_out(sandbox, SHELL_COMMAND if what is None else what, given, interrupts, split=None, as_json=False)
        except KeyboardInterrupt:
            return interrupts.exit_code


def _start(sandbox: Sandbox, what: str | list[str] | None, spec: dict[str, Any]) -> Execution:
    from remote_env.terminal_base import SHELL_COMMAND

    columns, rows = _size()
    tty = {"rows": rows, "cols": columns, "term": os.environ.get("TERM") or "xterm-256color"}
    return sandbox.start(SHELL_COMMAND if what is None else what, tty=tty, timeout_s=None, **spec)


def _size() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    return columns or 80, rows or 24


def _show(client: Client, execution: Execution, *, offset: int) -> int:
    """Holds our terminal and the program's together until one of them ends. Returns the exit code."""
    from remote_env.cli.rawmode import Leave, RawTerminal

    try:
        if sys.stdin.isatty():
            with RawTerminal(sys.stdin.fileno()) as raw:
                ending = _attachment(client, execution, offset, raw).run()
        else:
            ending = _attachment(client, execution, offset, None).run()
    except Leave as leave:
        _tell_left(execution)
        return _SIGNALLED + leave.number
    except KeyboardInterrupt:
        _tell_left(execution)
        raise
    return _conclude(execution, ending)


def _attachment(client: Client, execution: Execution, offset: int, raw: RawTerminal | None) -> Attachment:
    from remote_env.backoff import Backoff
    from remote_env.cli.attached import Attachment
    from remote_env.cli.terminaldial import LinkRefused
    from remote_env.cli.terminallink import TerminalLink
    from remote_env.protocol import new_id

    carrier, record, typist = client.exchange.transport, execution.record, new_id()

    def connect(offset: int | None) -> TerminalLink:
        try:
            return TerminalLink.open(carrier.endpoint, carrier.token.value, record, offset=offset, typist=typist, timings=carrier.timings)
        except LinkRefused as refusal:
            if refusal.status != _UNAUTHORIZED or not carrier.token.reload():
                raise
        return TerminalLink.open(carrier.endpoint, carrier.token.value, record, offset=offset, typist=typist, timings=carrier.timings)

    return Attachment(
        connect,
        offset=offset,
        keyboard=sys.stdin.fileno(),
        screen=sys.stdout.fileno(),
        raw=raw,
        tell=_tell if raw is None else _tell_raw,
        backoff=Backoff(carrier.timings.retry_first_s, carrier.timings.retry_most_s),
        budget_s=carrier.timings.reconnect_budget_s,
    )


def _tell(text: str) -> None:
    screen.warn(text)


def _tell_raw(text: str) -> None:
    """On a raw terminal a line end goes down and not back, and the cursor stands where the program left it."""
    screen.write_note(f"\r\nremote-env: {text}\r\n")


def _conclude(execution: Execution, ending: Ending) -> int:
    """Tells how it went, on a terminal that is as it was. Raises RemoteEnvError where nobody knows what became of the program."""
    from remote_env.cli import failures
    from remote_env.cli.attached import Detached, GaveUp, Refused
    from remote_env.errors import EpochChanged, LinkLost, Unauthorized

    if isinstance(ending, Detached):
        _tell_left(execution)
        return LOST_OR_UNKNOWN
    again = f"`remote-env shell --attach {execution.id} {execution.sandbox_id}` takes it up again"
    if isinstance(ending, GaveUp):
        raise LinkLost(f"No link to the program for too long ({ending.reason}). It goes on: {again}.", execution_id=execution.id)
    if isinstance(ending, Refused):
        if ending.status == _UNAUTHORIZED:
            raise Unauthorized(f"The server refused the token ({ending.reason}). The program goes on: {again}.", execution_id=execution.id)
        if not execution.refresh().over:
            raise EpochChanged(f"The server has no link for the program ({ending.reason}).", execution_id=execution.id)
        screen.warn(f"it has ended; `remote-env logs {execution.id}` shows what it said.")
    else:
        execution.learn(ending.record)
    for line in failures.remarks(execution.record):
        screen.warn(line)
    return failures.exit_code(execution.record)


def _tell_left(execution: Execution) -> None:
    screen.note(
        f"left; it goes on: `remote-env shell --attach {execution.id} {execution.sandbox_id}` comes back to it, "
        f"`remote-env kill {execution.id}` ends it"
    )
