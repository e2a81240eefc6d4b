"""What inits and commands do, and what happens to them."""

from __future__ import annotations

from tests.unit.simulation.actions.table import CALLS, SANDBOXES, act, held_by_an_init
from tests.unit.simulation.bodies import NEVER_END
from tests.unit.simulation.server.executions import LiveSandbox
from tests.unit.simulation.server.requests import Server
from tests.unit.simulation.world import World


@act("work", SANDBOXES, weight=3)
def connect(world: World, number: int, _: int) -> bool:
    return world.connect(SANDBOXES[number])


@act("work", SANDBOXES, weight=6)
def init_reads(world: World, number: int, _: int) -> bool:
    return world.init_reads(SANDBOXES[number]) is not None


@act("link", SANDBOXES, weight=2)
def init_reads_old_link(world: World, number: int, _: int) -> bool:
    return world.init_reads(SANDBOXES[number], old=True) is not None


@act("link", SANDBOXES, weight=2)
def break_link(world: World, number: int, _: int) -> bool:
    init = world.init(SANDBOXES[number])
    if init is None or init.link is None:
        return False
    init.lose_link()
    return True


@act("link", SANDBOXES)
def server_closes_link(world: World, number: int, _: int) -> bool:
    def close(server: Server, live: LiveSandbox) -> bool:
        if live.link is None:
            return False
        server.close(live, live.link)
        return True

    return bool(world.serve(SANDBOXES[number], close))


@act("link", SANDBOXES)
def stop_or_go_on(world: World, number: int, _: int) -> bool:
    """The init does not read for a while: it is frozen, or full."""
    init = world.init(SANDBOXES[number])
    if init is None or init.link is None:
        return False
    init.link.stopped = not init.link.stopped
    return True


@act("work", CALLS, weight=3)
def write(world: World, number: int, _: int) -> bool:
    """A command, or what it left behind, writes a byte."""
    held = held_by_an_init(world, CALLS[number])
    if held is None:
        return False
    return any(c.init.writes(held) for c in world.engine.containers.values() if c.init)


@act("work", CALLS, ("with 0", "with 1"), weight=3)
def command_exits(world: World, number: int, code: int) -> bool:
    for container in world.engine.containers.values():
        init = container.init
        held = None if init is None else init.table.get(CALLS[number])
        if init is not None and held is not None and held.running and held.body not in NEVER_END:
            init.exits(held, code)
            return True
    return False


@act("sandbox", SANDBOXES, weight=3)
def kill_all_inside(world: World, number: int, _: int) -> bool:
    init = world.init(SANDBOXES[number])
    if init is None or not init.running():
        return False
    init.kill_all()
    return True


@act("sandbox", SANDBOXES, weight=2)
def kill_container(world: World, number: int, _: int) -> bool:
    container = world.container(SANDBOXES[number])
    if container is None or container.init is None:
        return False
    world.ledger.fails("container", container.sandbox)
    world.engine.kill(container)
    return True


@act("sandbox", SANDBOXES, weight=2)
def docker_restart(world: World, number: int, _: int) -> bool:
    container = world.container(SANDBOXES[number])
    if container is None:
        return False
    world.ledger.fails("container", container.sandbox)
    world.engine.kill(container)
    world.engine.start(container, world.now)
    return True


@act("wedge", SANDBOXES)
def wedge(world: World, number: int, _: int) -> bool:
    """Its init can connect no more."""
    container = world.container(SANDBOXES[number])
    if container is None or container.init is None or container.wedged:
        return False
    world.ledger.fails("container", container.sandbox)
    container.wedged = True
    container.init.lose_link()
    return True
