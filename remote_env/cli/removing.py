"""Removing many sandboxes, several at a time, and telling of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from remote_env.cli import screen
from remote_env.cli.codes import FAILED
from remote_env.cli.invocation import Invocation
from remote_env.creation import remove_sandbox
from remote_env.driving import drive
from remote_env.errors import InvalidSpec, RemoteEnvError
from remote_env.protocol import ID_PATTERN

if TYPE_CHECKING:
    from remote_env.client import Client

_AT_ONCE = 8
_WHOLE = 32  # the length of ids made by us


def whole_ids(client: Client, names: list[str]) -> list[str]:
    """The names, where each is a whole id. Removing cannot be undone, so a beginning is not enough. Raises InvalidSpec."""
    known: list[str] | None = None
    for name in names:
        if len(name) >= _WHOLE and ID_PATTERN.fullmatch(name):
            continue
        if known is None:
            known = [sandbox.id for sandbox in client.sandboxes(state="all")]
        if name not in known:
            fitting = [id for id in known if id.startswith(name)]
            hint = f" Is {fitting[0]} meant? Write it whole." if len(fitting) == 1 else " `remote-env ps` lists them."
            raise InvalidSpec(f"There is no sandbox {name!r}; nothing was removed.{hint}")
    return names


def remove_all(invocation: Invocation, client: Client, ids: list[str], *, purge: bool) -> int:
    """Removes them and prints their ids as they go; returns an exit code."""

    def remove(sandbox_id: str) -> tuple[str, str | None, RemoteEnvError | None]:
        try:
            record = drive(remove_sandbox(client.exchange, sandbox_id, purge=purge, budget_s=client.timings.reconnect_budget_s))
        except RemoteEnvError as error:
            return sandbox_id, None, error
        return sandbox_id, "unknown" if record is None else record.state, None

    removed: list[dict[str, str]] = []
    failed = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for sandbox_id, state, error in pool.map(remove, dict.fromkeys(ids)):
            if error is not None:
                failed += 1
                screen.complain(f"sandbox {sandbox_id}: {error}")
            elif not invocation.as_json:
                screen.print_line(sandbox_id)
                if state not in ("removed", "dead", "failed"):
                    screen.note("the server does not know it" if state == "unknown" else "it is being removed")
            removed.append({"id": sandbox_id, "state": state or "unknown", **({"error": str(error)} if error else {})})
    if invocation.as_json:
        screen.print_json({"removed": removed})
    elif not ids:
        screen.note("no sandboxes to remove")
    return FAILED if failed else 0
