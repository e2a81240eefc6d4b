"""`create`, `ps` and `rm`: sandboxes one by one."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from remote_env.cli import options, screen
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.quantities import show_duration

if TYPE_CHECKING:
    from remote_env import protocol
    from remote_env.client import Client


def register(app: typer.Typer) -> None:
    command(app, "create")(create)
    command(app, "ps")(ps)
    command(app, "rm")(rm)


def create(
    invocation: Invocation,
    image: options.Image,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="An id of your own, 8 to 64 of a-z 0-9 _ and -. [default: a fresh one]")
    ] = None,
    env: options.Environment = None,
    workdir: options.Workdir = None,
    user: options.User = None,
    memory: options.Memory = None,
    cpus: options.Cpus = None,
    pids: options.Pids = None,
    network: options.Network = "bridge",
    pull: options.Pull = "missing",
    binds: options.Binds = None,
    lease: Annotated[
        str, typer.Option("--lease", metavar="DURATION", help="How long the sandbox stays. Nobody renews it, so it is long.")
    ] = options.CLI_LEASE,
    run_id: options.RunId = None,
) -> None:
    """Make a sandbox that stays, and print its id.

    It is removed by `rm`, by `gc`, or when its lease is over.

    \b
    Examples:
      SANDBOX=$(remote-env create python:3.12-slim)
      remote-env create debian --id my-sandbox --memory 8g --lease 7d
    """
    sandbox_options = options.sandbox_options(
        memory=memory, cpus=cpus, pids=pids, network=network, pull=pull, binds=binds, lease=lease
    ) | {"env": options.environment_of(env), "workdir": workdir, "user": user, "id": id}  # fmt: skip

    from remote_env.cli.creating import create_with_progress
    from remote_env.cli.interrupts import Interrupts

    with Interrupts() as interrupts, invocation.client(run_id=run_id) as client:
        try:
            sandbox = create_with_progress(client, image, sandbox_options)
        except KeyboardInterrupt:
            raise typer.Exit(interrupts.exit_code) from None
    if invocation.as_json:
        screen.print_json(sandbox.record.model_dump(mode="json"))
    else:
        screen.print_line(sandbox.id)
        screen.note(f"its lease ends in {show_duration(sandbox_options['lease_s'])}; nothing renews it")


def ps(
    invocation: Invocation,
    all: Annotated[bool, typer.Option("-a", "--all", help="Those that are over, too, as long as the server remembers them.")] = False,
    executions: Annotated[bool, typer.Option("-x", "--executions", help="List executions in place of sandboxes.")] = False,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="ID", help="Only this run's.")] = None,
    sandbox: Annotated[str | None, typer.Option("--sandbox", metavar="SANDBOX", help="Only this sandbox's executions.")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="Executions to list at most, newest first.")] = 100,
) -> None:
    """List sandboxes, or the executions in them.

    \b
    Examples:
      remote-env ps
      remote-env ps --executions --all --sandbox $SANDBOX
      remote-env ps --json | jq -r '.sandboxes[].id'
    """
    if sandbox is not None and not executions:
        raise typer.BadParameter("goes with --executions", param_hint="--sandbox")
    with invocation.client() as client:
        if executions:
            from remote_env.cli.executions import list_executions

            list_executions(invocation, client, all=all, run_id=run_id, sandbox=sandbox, limit=limit)
            return
        found = [each.record for each in client.sandboxes(run_id=run_id, state="all" if all else None)]
    found.sort(key=lambda record: record.created_at or datetime.min.replace(tzinfo=timezone.utc), reverse=True)
    if invocation.as_json:
        screen.print_json({"sandboxes": [record.model_dump(mode="json") for record in found]})
        return
    if not found:
        screen.note("no sandboxes" if all else "no sandboxes; --all lists those that are over")
    now = datetime.now(timezone.utc)
    made = screen.table("SANDBOX", "STATE", "AGE", "LEASE", "COMMANDS", "IMAGE", right=("COMMANDS",))
    for record in found:
        made.add_row(record.id, _state(record), _age(record, now), _lease(record, now), str(record.running or "-"), _image(record))
    if found:
        screen.print_table(made)


def rm(
    invocation: Invocation,
    names: Annotated[list[str] | None, typer.Argument(metavar="SANDBOX...", hidden=True)] = None,
    all: Annotated[bool, typer.Option("--all", help="Every sandbox of the server, whoever made it.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="With --all: do not ask.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="Erase the results and output of its commands at once, too.")] = False,
) -> int:
    """Remove sandboxes, with all that runs in them.

    SANDBOX is a whole id: a beginning is not enough for what cannot be undone. Removing what is gone already is no error.
    Results stay at the server for its retention (24 h by default) unless --purge erases them. Prints the ids.

    \b
    Examples:
      remote-env rm $SANDBOX
      remote-env rm --all --yes
    """
    if bool(names) == all:
        raise typer.BadParameter("give the sandboxes' ids, or --all", param_hint="SANDBOX")
    from remote_env.cli.removing import remove_all, whole_ids

    with invocation.client() as client:
        ids = [each.id for each in client.sandboxes()] if all else whole_ids(client, names or [])
        if all and ids and not yes:
            _confirm(client, len(ids))
        return remove_all(invocation, client, ids, purge=purge)


def _confirm(client: Client, count: int) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here: add --yes", param_hint="--all")
    noun = "the only sandbox" if count == 1 else f"all {count} sandboxes"
    if not typer.confirm(f"Remove {noun} of {client.url}, and end everything in them?", err=True):
        raise typer.Exit(1)


def _state(record: protocol.Sandbox) -> str:
    colour = {"running": "green", "creating": "cyan", "removing": "cyan", "removed": "bright_black"}.get(record.state, "red")
    return f"[{colour}]{record.state}[/]"


def _image(record: protocol.Sandbox) -> str:
    from rich.markup import escape

    reason = f" ({record.reason.partition(':')[0]})" if record.reason and record.state in ("dead", "failed") else ""
    return escape((record.image or "-") + reason)


def _age(record: protocol.Sandbox, now: datetime) -> str:
    return show_duration((now - record.created_at).total_seconds()) if record.created_at else "-"


def _lease(record: protocol.Sandbox, now: datetime) -> str:
    if record.lease_expires_at is None or record.state not in ("running", "creating"):
        return "-"
    return show_duration((record.lease_expires_at - now).total_seconds())
