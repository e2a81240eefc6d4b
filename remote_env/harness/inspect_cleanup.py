"""Removing the sandboxes that Inspect has made: after a sample, at the end of an evaluation, and by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import anyio
from rich import box, print
from rich.table import Table

from remote_env.client import Client
from remote_env.creation import remove_sandbox
from remote_env.driving import drive
from remote_env.errors import InvalidSpec, RemoteEnvError
from remote_env.harness.inspect_servers import OWNER_LABEL, SAMPLE_LABEL, SERVERS, TASK_LABEL, Made, owner
from remote_env.harness.inspect_threads import Cancellation, in_thread
from remote_env.sandbox import Sandbox

log = logging.getLogger("remote_env")


async def remove(several: Iterable[Made]) -> None:
    """Removes the sandboxes, one beside the other. Those that cannot be removed for a while stay noted, and are left to a later try
    and to their lease: a sample that is over must not fail for that."""
    async with anyio.create_task_group() as group:
        for made in several:
            group.start_soon(in_thread, partial(_remove, made))


def forget(several: Iterable[Made]) -> None:
    for made in several:
        SERVERS.forget(made)


def tell(left: Iterable[Made]) -> None:
    """On the screen, as Inspect's docker sandboxes do it: what is left, and how it ends."""
    table = Table(title="remote_env sandboxes (not yet cleaned up):", box=box.SQUARE_DOUBLE_HEAD, show_lines=True, title_justify="left")
    for column in ("Sample", "Service", "Sandbox"):
        table.add_column(column, overflow="fold")
    for made in left:
        table.add_row(made.sample, made.service, made.sandbox.id)
    print("", table, "")
    print("They end by themselves when their lease is over (`lease` in their configuration). Before that:")
    print("Enter one:     [blue]remote-env shell SANDBOX[/blue]")
    print("Clean up one:  [blue]inspect sandbox cleanup remote_env SANDBOX[/blue]")
    print("Clean up all:  [blue]inspect sandbox cleanup remote_env[/blue]\n")


async def from_command_line(sandbox_id: str | None) -> None:
    """`inspect sandbox cleanup remote_env [ID]`, on the server of REMOTE_ENV_URL. Raises RemoteEnvError."""
    with Client() as client:
        found = await in_thread(lambda cancellation: _found(client, sandbox_id))
        if not found:
            print("There are no remote_env sandboxes to clean up.")
        async with anyio.create_task_group() as group:
            for sandbox in found:
                group.start_soon(in_thread, partial(_remove_found, sandbox))


def _found(client: Client, sandbox_id: str | None) -> list[Sandbox]:
    if sandbox_id is None:
        return [sandbox for sandbox in client.sandboxes() if sandbox.record.labels.get(OWNER_LABEL) == owner()]
    sandbox = client.sandbox(sandbox_id)
    if OWNER_LABEL not in sandbox.record.labels:
        raise InvalidSpec(f"Inspect has not made sandbox {sandbox_id}; `remote-env rm {sandbox_id}` removes it all the same.")
    return [] if sandbox.gone is not None else [sandbox]


def _remove(made: Made, cancellation: Cancellation) -> None:
    sandbox, client = made.sandbox, made.client
    sandbox.mark_gone("the sample is over")
    farewell_s = client.timings.farewell_s
    try:
        drive(remove_sandbox(client.exchange, sandbox.id, budget_s=farewell_s, wait_s=farewell_s))
    except RemoteEnvError as error:
        log.warning("sandbox %s could not be removed (%s): its lease will end it", sandbox.id, error)
    else:
        SERVERS.forget(made)


def _remove_found(sandbox: Sandbox, cancellation: Cancellation) -> None:
    sandbox.remove()
    labels = sandbox.record.labels
    print(f"Removed sandbox {sandbox.id} (task {labels.get(TASK_LABEL, '')}, sample {labels.get(SAMPLE_LABEL, '')}).")
