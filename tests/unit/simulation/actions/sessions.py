"""What happens in sessions: shells that callers open, send commands to and close."""

from __future__ import annotations

from tests.unit.simulation.actions.callers import broken_off
from tests.unit.simulation.actions.table import (
    CALLS,
    OLDEST_OR_NEWEST,
    SANDBOXES,
    SESSIONS,
    UNFENCED,
    act,
    held_by_an_init,
    live_execution,
    message_of,
)
from tests.unit.simulation.bodies import IN_SESSION, SESSION
from tests.unit.simulation.clients import OPEN, Call
from tests.unit.simulation.world import World


@act("sessions", SESSIONS, [f"in {sandbox}" for sandbox in SANDBOXES], weight=3)
def open_session(world: World, number: int, where: int) -> bool:
    id_, sandbox = SESSIONS[number], SANDBOXES[where]
    epoch = world.clients.epochs.get(sandbox)
    if id_ in world.clients.calls or epoch is None:
        return False
    world.clients.calls[id_] = Call(id_, sandbox, epoch, SESSION, world.now)
    return True


@act("sessions", CALLS, [f"({body}) in {session}" for session in SESSIONS for body in IN_SESSION], weight=8)
def command(world: World, number: int, kind: int) -> bool:
    """A caller begins a command in a session that it knows, whatever has become of that meanwhile."""
    id_, session = CALLS[number], world.clients.calls.get(SESSIONS[kind // len(IN_SESSION)])
    if id_ in world.clients.calls or session is None or not (session.told == OPEN or session.follows):
        return False
    body = IN_SESSION[kind % len(IN_SESSION)]
    world.clients.calls[id_] = Call(id_, session.sandbox, session.epoch, body, world.now, session=session.id)
    return True


@act("sessions", SESSIONS, weight=4)
def request_session(world: World, number: int, _: int) -> bool:
    caller = world.clients.calls.get(SESSIONS[number])
    return caller is not None and world.request(caller)


@act("sessions", SESSIONS, OLDEST_OR_NEWEST, weight=4)
def deliver_session(world: World, number: int, newest: int) -> bool:
    message = message_of(world, SESSIONS[number], newest)
    if message is None or world.server is None:
        return False
    world.network.remove(message)
    world.arrives(message)
    return True


@act("ends of sessions", SESSIONS)
def close_session(world: World, number: int, _: int) -> bool:
    session = world.clients.calls.get(SESSIONS[number])
    if session is None or session.told != OPEN or world.server is None:
        return False
    world.close_session(session)
    return True


@act("ends of sessions", SESSIONS, ("exits with 3", "is killed"))
def shell_of(world: World, number: int, killed: int) -> bool:
    """The shell ends by itself, or something inside ends it; and its command with it."""
    shell = held_by_an_init(world, SESSIONS[number])
    init = None if shell is None else next((c.init for c in world.engine.containers.values() if c.init and shell.id in c.init.table), None)
    if shell is None or init is None or not shell.running:
        return False
    init.shell_dies(shell, 9 if killed else 3 << 8)
    return True


@act("sessions", SESSIONS, weight=3)
def write_in_background(world: World, number: int, _: int) -> bool:
    shell = held_by_an_init(world, SESSIONS[number])
    return shell is not None and any(c.init.writes(shell) for c in world.engine.containers.values() if c.init)


@act("sessions", SESSIONS, weight=3)
def splice_session(world: World, number: int, _: int) -> bool:
    live = live_execution(world, SESSIONS[number])
    return world.server is not None and live is not None and world.server.executions.splice(live, 0)


@act("sessions", SESSIONS, weight=3)
def drain_session(world: World, number: int, _: int) -> bool:
    server, live = world.server, live_execution(world, SESSIONS[number])
    return server is not None and live is not None and bool(world._serve(lambda: server.executions.drain(live)))


# ------------------------------------------------------------------------------------------- and how their requests fare


@act("late sessions", SESSIONS, weight=2)
def lose_session_answer(world: World, number: int, _: int) -> bool:
    message = message_of(world, SESSIONS[number])
    if message is None or world.server is None:
        return False
    world.network.remove(message)
    world.arrives(message, answer=False)
    return True


@act("late sessions", SESSIONS, weight=2)
def break_off_session(world: World, number: int, _: int) -> bool:
    message = message_of(world, SESSIONS[number])
    if message is None or message.caller is None:
        return False
    broken_off(world, message)
    return True


@act("late sessions", SESSIONS, weight=2)
def duplicate_session(world: World, number: int, _: int) -> bool:
    message = message_of(world, SESSIONS[number])
    if message is None or sum(each.key == message.key for each in world.network) > 2:
        return False
    world.network.append(message.copy())
    return True


@act("late sessions", SESSIONS)
def reattach_session(world: World, number: int, _: int) -> bool:
    """The process that opens a session dies; the next one opens it again, with the id and epoch that it had stored."""
    before = world.clients.calls.get(SESSIONS[number])
    if before is None or before.follows or before.told in UNFENCED:
        return False
    if before.waits_for is not None:
        before.waits_for.caller = None
    world.clients.calls[before.id] = Call(before.id, before.sandbox, before.epoch, SESSION, world.now, fresh=False)
    return True
