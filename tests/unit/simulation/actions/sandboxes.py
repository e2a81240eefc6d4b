"""How sandboxes come and go."""

from __future__ import annotations

from tests.unit.simulation.actions.table import SANDBOXES, act
from tests.unit.simulation.network import Message
from tests.unit.simulation.world import World


@act("sandboxes", SANDBOXES, weight=3)
def create(world: World, number: int, _: int) -> bool:
    """A caller asks for a sandbox (again: it may be one that is gone)."""
    sandbox = SANDBOXES[number]
    if any(message.key == sandbox for message in world.network):
        return False
    world.network.append(Message(sandbox, "create", "", sandbox))
    return True


@act("sandboxes", SANDBOXES, weight=3)
def make(world: World, number: int, _: int) -> bool:
    return bool(world.serve(SANDBOXES[number], lambda server, live: server.make(live)))


@act("sandboxes", SANDBOXES, weight=3)
def learn_epoch(world: World, number: int, _: int) -> bool:
    """The caller of a new sandbox learns its epoch."""
    live = world.of_server(SANDBOXES[number])
    if live is None or world.server is None or not live.takes_work or world.clients.epochs.get(live.id) == world.server.epoch(live):
        return False
    world.clients.epochs[live.id] = world.server.epoch(live)
    return True


@act("more sandboxes", SANDBOXES, weight=3)
def make_sandbox(world: World, number: int, _: int) -> bool:
    """All of the above at once: a caller gets a sandbox."""
    sandbox = SANDBOXES[number]
    soon_dead = world.disk.crash_in is not None or world.disk.next_commit_fails is not None
    if world.server is None or sandbox in world.disk.journal.sandboxes or world.engine.away or soon_dead:
        return False
    world.server.sweep()
    if sandbox in world.engine.containers:
        return False
    world.make_sandbox(sandbox)
    return True


@act("removal", SANDBOXES, weight=2)
def delete(world: World, number: int, _: int) -> bool:
    sandbox = SANDBOXES[number]
    if any(message.key == sandbox and message.verb == "delete" for message in world.network):
        return False
    world.network.append(Message(sandbox, "delete", "", sandbox))
    return True
