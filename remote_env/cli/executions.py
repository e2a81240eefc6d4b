"""`logs` and `kill`, and the list of executions for `ps`."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remote_env.cli import screen
from remote_env.cli.invocation import Invocation, command, parsed
from remote_env.cli.quantities import parse_signal, show_duration, show_size, show_span, signal_name

if TYPE_CHECKING:
    from remote_env import protocol
    from remote_env.client import Client
    from remote_env.execution import Execution

_KILL_WAIT_S = 10.0  # beyond its grace, for the end of what was cancelled

Name = Annotated[str, typer.Argument(metavar="EXECUTION", hidden=True)]


def register(app: typer.Typer) -> None:
    command(app, "logs")(logs)
    command(app, "kill")(kill)


def logs(
    invocation: Invocation,
    name: Name,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the command has ended.")] = False,
) -> int:
    """Show a command's output, of one that runs or one that is over: what it wrote to stderr on stderr, where that was
    kept apart.

    EXECUTION is its id, or a beginning of it that fits no other.

    \b
    Examples:
      remote-env logs $EXECUTION
      remote-env logs -f $EXECUTION
      remote-env logs $EXECUTION --json | jq .outcome
    """
    from remote_env.cli.carry import execution_document, show_output
    from remote_env.cli.failures import remarks
    from remote_env.cli.lookup import find_execution

    with invocation.client() as client:
        execution = find_execution(client, name)
        if follow:
            _print_events(execution) if invocation.as_json else show_output(execution)
        elif invocation.as_json:
            screen.print_json(execution_document(execution))
        elif not execution.record.output.purged:
            screen.write_bytes(execution.output())
            if execution.streams == "split":
                screen.write_bytes(execution.stderr(), sys.stderr)
        if execution.over:
            for line in remarks(execution.record):
                screen.warn(line)
        elif not invocation.as_json:
            screen.note("it is still running; -f follows it")
    return 0


def kill(
    invocation: Invocation,
    names: Annotated[list[str], typer.Argument(metavar="EXECUTION...", hidden=True)],
    signal: Annotated[
        str | None, typer.Option("-s", "--signal", metavar="SIGNAL", help="Send this one alone (INT, SIGHUP, 9), and do not wait.")
    ] = None,
) -> int:
    """End a command and everything that it has started.

    Without --signal it is cancelled: SIGTERM, then SIGKILL to all that is left. Its output so far is kept.
    EXECUTION is its id, or a beginning of it that fits no other.

    \b
    Examples:
      remote-env kill $EXECUTION
      remote-env kill --signal INT $EXECUTION
    """
    number = parsed("--signal", parse_signal, signal)

    from remote_env.cli.lookup import find_execution

    documents = []
    with invocation.client() as client:
        for execution in [find_execution(client, name) for name in names]:
            _end(execution, number)
            documents.append(execution.record.model_dump(mode="json"))
            if not invocation.as_json:
                sent = f"was sent {signal_name(number)}" if number is not None else None
                screen.print_line(f"{execution.id} {sent or standing(execution.record)}")
    if invocation.as_json:
        screen.print_json({"executions": documents})
    return 0


def _end(execution: Execution, number: int | None) -> None:
    """Sends it the signal, or cancels it and waits for its end a while."""
    if number is not None:
        execution.signal(number)
        return
    execution.cancel()
    try:
        execution.wait(_KILL_WAIT_S)
    except TimeoutError:
        screen.warn(f"execution {execution.id} has not ended yet; it is being cancelled.")


def _print_events(execution: Execution) -> None:
    """A line for each, up to its end."""
    from remote_env.cli.carry import text_or_base64
    from remote_env.events import Ended, Gap, OutputPiece

    with execution.stream() as events:
        for event in events:
            if isinstance(event, OutputPiece):
                screen.print_json_line({"event": "output", "stream": event.stream, "offset": event.offset} | text_or_base64(event.data))
            elif isinstance(event, Gap):
                screen.print_json_line({"event": "gap", "stream": event.stream, "from": event.start, "to": event.end})
            elif isinstance(event, Ended):
                screen.print_json_line({"event": "end", "execution": event.result.record.model_dump(mode="json")})
            else:
                fields = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(event).items()}
                screen.print_json_line({"event": type(event).__name__.lower()} | fields)


def list_executions(invocation: Invocation, client: Client, *, all: bool, run_id: str | None, sandbox: str | None, limit: int) -> None:
    """What `ps --executions` prints."""
    from remote_env.cli.lookup import sandbox_id

    filters: dict[str, Any] = {"run_id": run_id, "sandbox_id": sandbox_id(client, sandbox) if sandbox else None, "limit": limit}
    if all:
        found = [execution.record for execution in client.executions(**filters)]
    else:
        found = [execution.record for state in ("accepted", "running") for execution in client.executions(state=state, **filters)]
        found = sorted(found, key=lambda record: record.id, reverse=True)[:limit]
    if invocation.as_json:
        screen.print_json({"executions": [record.model_dump(mode="json") for record in found]})
        return
    if not found:
        screen.note("no executions" if all else "nothing runs; --all lists what has ended")
        return
    now = datetime.now(timezone.utc)
    made = screen.table("EXECUTION", "STATE", "AGE", "TOOK", "OUTPUT", "SANDBOX", right=("OUTPUT",))
    for record in found:
        age = show_duration((now - record.accepted_at).total_seconds()) if record.accepted_at else "-"
        made.add_row(record.id, _coloured(record), age, _took(record, now), show_size(record.output.total_bytes), record.sandbox_id)
    screen.print_table(made)


def standing(record: protocol.Execution) -> str:
    """How it stands, in a word or three: `running`, `exit 3`, `timed out`."""
    outcome = record.outcome
    if outcome is None:
        return "cancelling" if record.cancelling else record.state
    if outcome.kind == "exited":
        return f"exit {outcome.code}"
    if outcome.kind == "signalled":
        return signal_name(outcome.signal or 0)
    return outcome.kind.replace("_", " ")


def _coloured(record: protocol.Execution) -> str:
    words = standing(record)
    colour = {"running": "green", "accepted": "cyan", "cancelling": "yellow", "exit 0": "default"}.get(words)
    return f"[{colour or ('yellow' if words.startswith('exit') else 'red')}]{words}[/]"


def _took(record: protocol.Execution, now: datetime) -> str:
    if record.started_at is None:
        return "-"
    return show_span(((record.ended_at or now) - record.started_at).total_seconds())
