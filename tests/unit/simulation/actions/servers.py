"""What the server does, and how it dies."""

from __future__ import annotations

from tests.unit.simulation.actions.table import CALLS, SANDBOXES, act, live_execution
from tests.unit.simulation.world import World


@act("work", weight=3)
def start_server(world: World, _: int, __: int) -> bool:
    if world.server is not None:
        return False
    world.start_server()
    return True


@act("crash", weight=2)
def crash(world: World, _: int, __: int) -> bool:
    if world.server is None:
        return False
    world.server_dies()
    return True


@act("crash", [f"after {number} more instructions" for number in range(6)], weight=2)
def crash_soon(world: World, instructions: int, _: int) -> bool:
    """The server dies in the middle of something: after so many more commits and packets."""
    if world.server is None or world.disk.crash_in is not None:
        return False
    world.disk.crash_in = instructions
    return True


@act("crash", ("without effect", "with effect"))
def commit_fails(world: World, effect: int, _: int) -> bool:
    if world.server is None or world.disk.next_commit_fails is not None:
        return False
    world.disk.next_commit_fails = "with effect" if effect else "without effect"
    return True


@act("work", SANDBOXES, weight=6)
def server_reads(world: World, number: int, _: int) -> bool:
    return world.serve(SANDBOXES[number], lambda server, live: server.read(live)) is not None


@act("work", CALLS, weight=3)
def drain(world: World, number: int, _: int) -> bool:
    server, live = world.server, live_execution(world, CALLS[number])
    return server is not None and live is not None and bool(world._serve(lambda: server.executions.drain(live)))


@act("work", CALLS, ("", "by its second reader"), weight=3)
def splice(world: World, number: int, reader: int) -> bool:
    live = live_execution(world, CALLS[number])
    return world.server is not None and live is not None and world.server.executions.splice(live, reader)


@act("work", SANDBOXES)
def look(world: World, number: int, _: int) -> bool:
    return bool(world.serve(SANDBOXES[number], lambda server, live: server.look(live)))


@act("work", SANDBOXES, weight=2)
def finish(world: World, number: int, _: int) -> bool:
    return bool(world.serve(SANDBOXES[number], lambda server, live: server.finish(live)))


@act("work")
def sweep(world: World, _: int, __: int) -> bool:
    return world.server is not None and bool(world._serve(world.server.sweep))


@act("confused", CALLS, weight=6)
def send_again(world: World, number: int, _: int) -> bool:
    """A server that is confused sends a run that it has sent before."""
    for link, packet in reversed(world.sent):
        if packet.id == CALLS[number]:
            init = next((c.init for c in world.engine.containers.values() if c.init and c.init.link is link), None)
            if init is None or not link.server_end:
                return False
            link.to_init.append(packet)
            return True
    return False
