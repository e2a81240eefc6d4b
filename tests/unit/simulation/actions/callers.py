"""What callers do, and what the network does with their requests."""

from __future__ import annotations

from remote_env.delivery import Broken, Phase
from remote_env.protocol import Problem
from tests.unit.simulation.actions.table import CALLS, KEYS, OLDEST_OR_NEWEST, SANDBOXES, UNFENCED, act, message_about
from tests.unit.simulation.bodies import BODIES, QUICK
from tests.unit.simulation.clients import Call
from tests.unit.simulation.network import Message
from tests.unit.simulation.world import World


@act("work", CALLS, [f"({body}) in {sandbox}" for sandbox in SANDBOXES for body in BODIES], weight=3)
def call(world: World, number: int, kind: int) -> bool:
    """A caller begins a command with a fresh id, in one of the sandboxes."""
    id_, sandbox = CALLS[number], SANDBOXES[kind // len(BODIES)]
    epoch = world.clients.epochs.get(sandbox)
    if id_ in world.clients.calls or epoch is None:
        return False
    world.clients.calls[id_] = Call(id_, sandbox, epoch, BODIES[kind % len(BODIES)], world.now)
    return True


@act("work", CALLS, weight=5)
def request(world: World, number: int, _: int) -> bool:
    caller = world.clients.calls.get(CALLS[number])
    return caller is not None and world.request(caller)


@act("work", KEYS, OLDEST_OR_NEWEST, weight=5)
def deliver(world: World, key: int, newest: int) -> bool:
    """A request arrives, and its answer too; it may overtake older ones."""
    message = message_about(world, key, newest)
    if message is None or world.server is None:
        return False
    world.network.remove(message)
    world.arrives(message)
    return True


@act("network", KEYS, OLDEST_OR_NEWEST, weight=2)
def lose_answer(world: World, key: int, newest: int) -> bool:
    """A request arrives, its answer does not."""
    message = message_about(world, key, newest)
    if message is None or world.server is None:
        return False
    world.network.remove(message)
    world.arrives(message, answer=False)
    return True


def broken_off(world: World, message: Message) -> None:
    caller = message.caller
    message.caller = None
    if caller is not None and caller.waits_for is message:
        world.clients.happens(caller, Broken(world.now, "the connection broke"))


@act("network", CALLS, weight=2)
def break_off(world: World, number: int, _: int) -> bool:
    """The connection breaks; a proxy has the request and may deliver it late."""
    message = message_about(world, number)
    if message is None or message.caller is None:
        return False
    broken_off(world, message)
    return True


@act("network", KEYS)
def lose_request(world: World, key: int, _: int) -> bool:
    message = message_about(world, key)
    if message is None:
        return False
    world.network.remove(message)
    broken_off(world, message)
    return True


@act("network", KEYS, weight=2)
def duplicate(world: World, key: int, _: int) -> bool:
    """A proxy keeps a copy; it comes last."""
    message = message_about(world, key)
    if message is None or sum(each.key == message.key for each in world.network) > 2:
        return False
    world.network.append(message.copy())
    return True


@act("network", CALLS, [f"with the answer about {call}" for call in CALLS])
def mix_up(world: World, number: int, other: int) -> bool:
    """The answer is about another execution: the connection is off by one."""
    message = message_about(world, number)
    if message is None or world.server is None or number == other:
        return False
    world.network.remove(message)
    world.arrives(message, mixed=CALLS[other])
    return True


@act("busy", CALLS, weight=3)
def busy(world: World, number: int, _: int) -> bool:
    """The server has no room for one copy of a POST."""
    message = message_about(world, number)
    if message is None or world.server is None or message.verb != "post":
        return False
    world.network.remove(message)
    world.arrives(message, busy=True)
    return True


@act("busy", CALLS)
def refuse_token(world: World, number: int, _: int) -> bool:
    """The server's token has been changed: it refuses the one that all copies of this request carry.

    Not where a proxy's copy of the very first POST was taken just before the change: "unauthorized" is told at once then, for
    nobody could ask with such a token.
    """
    caller = world.clients.calls.get(CALLS[number])
    if caller is not None and caller.delivery.phase is Phase.POSTING and not caller.waited and caller.id in world.disk.journal.executions:
        return False
    if caller is None or caller.waits_for not in world.network or world.server is None:
        return False
    world.network[:] = [each for each in world.network if each.key != caller.id]
    world.clients.refused(caller, Problem.of("unauthorized", ""), world.now)
    return True


@act("cancel", CALLS, weight=4)
def cancel(world: World, number: int, _: int) -> bool:
    caller = world.clients.calls.get(CALLS[number])
    if caller is None or world.server is None or caller.epoch is None:
        return False
    world.cancel(caller.id, caller.sandbox, caller.epoch)
    return True


@act("callers", CALLS, weight=2)
def reattach(world: World, number: int, _: int) -> bool:
    """A caller's process dies; the next one calls again with the id and epoch that it had stored (STOREDEPOCH)."""
    before = world.clients.calls.get(CALLS[number])
    if before is None or before.epoch is None or before.told in UNFENCED:
        return False
    epoch: str | None = before.epoch
    if "STOREDEPOCH" in world.off:
        epoch = world.clients.epochs.get(before.sandbox)
        if epoch is None:
            return False
    if before.waits_for is not None:
        before.waits_for.caller = None
    world.clients.calls[before.id] = Call(
        before.id, before.sandbox, epoch, before.body, world.now, fresh=False, mistaken=before.mistaken, session=before.session
    )
    return True


@act("callers", CALLS, [f"in {sandbox}" for sandbox in SANDBOXES])
def use_id_again(world: World, number: int, other: int) -> bool:
    """A caller's mistake: the id of an earlier command for another one, perhaps in another sandbox."""
    before, sandbox = world.clients.calls.get(CALLS[number]), SANDBOXES[other]
    epoch = world.clients.epochs.get(sandbox)
    if before is None or before.told in (None, *UNFENCED) or epoch is None or "journal" in world.ledger.failures(sandbox):
        return False
    body = before.body if sandbox != before.sandbox else QUICK
    world.clients.calls[before.id] = Call(before.id, sandbox, epoch, body, world.now, fresh=False, mistaken=True)
    return True


@act("bare", CALLS, weight=4)
def call_without_epoch(world: World, number: int, _: int) -> bool:
    id_ = CALLS[number]
    if id_ in world.clients.calls:
        return False
    world.clients.calls[id_] = Call(id_, "s0", None, QUICK, world.now, mistaken=True)
    return True


@act("lease")
def fall_asleep(world: World, _: int, __: int) -> bool:
    """The callers' heartbeats stop, or begin again."""
    world.asleep = not world.asleep
    return True
