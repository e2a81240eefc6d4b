"""From what a person types to an id: whole ids, or a prefix that fits one alone.

A prefix is compared with all that the server remembers, ended ones too. So one that was right yesterday and has gone
since names nothing else today.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remote_env.errors import InvalidSpec
from remote_env.protocol import ID_PATTERN

if TYPE_CHECKING:
    from remote_env.client import Client
    from remote_env.execution import Execution
    from remote_env.sandbox import Sandbox

SHORTEST_PREFIX = 4
MOST_EXECUTIONS = 1000  # that the server lists at once
_WHOLE = 32  # the length of ids made by us


def find_sandbox(client: Client, name: str) -> Sandbox:
    """Raises InvalidSpec, SandboxGone."""
    return client.sandbox(sandbox_id(client, name))


def sandbox_id(client: Client, name: str) -> str:
    if len(name) >= _WHOLE and ID_PATTERN.fullmatch(name):
        return name
    return _the_one(name, [sandbox.id for sandbox in client.sandboxes(state="all")], "sandbox")


def find_execution(client: Client, name: str) -> Execution:
    """Raises InvalidSpec, EpochChanged."""
    if len(name) >= _WHOLE and ID_PATTERN.fullmatch(name):
        return client.execution(name)
    known = [execution.id for execution in client.executions(limit=MOST_EXECUTIONS)]
    return client.execution(_the_one(name, known, "execution"))


def _the_one(name: str, known: list[str], noun: str) -> str:
    if name in known:
        return name
    fitting = [id for id in known if len(name) >= SHORTEST_PREFIX and id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InvalidSpec(f"{len(fitting)} {noun}s begin with {name!r}, among them {fitting[0]} and {fitting[1]}: give more of the id.")
    listing = "ps" if noun == "sandbox" else "ps --executions --all"
    raise InvalidSpec(f"The server knows no {noun} {name!r}: `remote-env {listing}` lists them.")
