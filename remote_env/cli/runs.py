"""`gc`: what crashed runs left behind."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remote_env.cli import screen
from remote_env.cli.invocation import Invocation, command
from remote_env.cli.quantities import show_duration

if TYPE_CHECKING:
    from remote_env import protocol


def register(app: typer.Typer) -> None:
    command(app, "gc")(gc)


def gc(
    invocation: Invocation,
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Remove every sandbox of this run now.")] = None,
    purge: Annotated[bool, typer.Option("--purge", help="Erase the results and output of its commands at once, too.")] = False,
) -> int:
    """Remove what a crashed run left, without waiting for its lease.

    A run is one process or batch; its sandboxes share a lease. Without --run, lists the runs that have sandboxes.

    \b
    Examples:
      remote-env gc
      remote-env gc --run 0199f3b2c4d57e61a8b2c3d4e5f60718
    """
    if purge and run_id is None:
        raise typer.BadParameter("goes with --run", param_hint="--purge")
    with invocation.client() as client:
        if run_id is not None:
            from remote_env.cli.removing import remove_all

            return remove_all(invocation, client, [each.id for each in client.sandboxes(run_id=run_id)], purge=purge)
        runs: dict[str, list[protocol.Sandbox]] = defaultdict(list)
        for sandbox in client.sandboxes():
            runs[sandbox.record.run_id].append(sandbox.record)
    _show(invocation, runs)
    return 0


def _show(invocation: Invocation, runs: dict[str, list[protocol.Sandbox]]) -> None:
    now = datetime.now(timezone.utc)
    rows: list[dict[str, Any]] = []
    for run_id, records in runs.items():
        ages = [(now - record.created_at).total_seconds() for record in records if record.created_at]
        leases = [(record.lease_expires_at - now).total_seconds() for record in records if record.lease_expires_at]
        rows.append(
            {
                "run_id": run_id,
                "sandboxes": [record.id for record in records],
                "running": sum(record.running for record in records),
                "oldest_s": round(max(ages), 1) if ages else None,
                "lease_left_s": round(max(leases), 1) if leases else None,
            }
        )
    rows.sort(key=lambda row: -(row["oldest_s"] or 0.0))
    if invocation.as_json:
        screen.print_json({"runs": rows})
        return
    if not rows:
        screen.note("no run has a sandbox")
        return
    made = screen.table("RUN", "SANDBOXES", "COMMANDS", "OLDEST", "LEASE", right=("SANDBOXES", "COMMANDS"))
    for row in rows:
        oldest, lease = (show_duration(row[key]) if row[key] is not None else "-" for key in ("oldest_s", "lease_left_s"))
        made.add_row(row["run_id"], str(len(row["sandboxes"])), str(row["running"] or "-"), oldest, lease)
    screen.print_table(made)
    screen.note("`remote-env gc --run RUN` removes all sandboxes of one; a run whose lease keeps being renewed is alive")
