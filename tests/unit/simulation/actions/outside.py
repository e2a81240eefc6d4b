"""What happens to engine, disk and machine, and the time that passes."""

from __future__ import annotations

from tests.unit.simulation.actions.table import CALLS, WAITS_S, act
from tests.unit.simulation.world import World


@act("engine", ("without live-restore", "with live-restore"))
def engine_crashes(world: World, live_restore: int, _: int) -> bool:
    if world.engine.away:
        return False
    world.engine.away = True
    if not live_restore:
        world.ledger.fails("engine")
        for container in world.engine.containers.values():
            world.engine.kill(container)
    return True


@act("engine", weight=2)
def engine_comes_back(world: World, _: int, __: int) -> bool:
    if not world.engine.away:
        return False
    world.engine.away = False
    return True


@act("journal", weight=3)
def copy_journal(world: World, _: int, __: int) -> bool:
    world.disk.copied = world.disk.journal.copy()
    return True


@act("journal", weight=3)
def set_journal_back(world: World, _: int, __: int) -> bool:
    """The server dies, and its journal is replaced by the older copy."""
    world.server_dies()
    world.disk.journal = world.disk.copied.copy()
    world.ledger.fails("journal")
    return True


@act("wipe", weight=2)
def wipe_journal(world: World, _: int, __: int) -> bool:
    world.server_dies()
    world.disk.wipe()
    world.ledger.fails("journal")
    return True


@act("host", ("", "and the last commits are lost"))
def power_cut(world: World, commits_lost: int, _: int) -> bool:
    """The machine boots again: no container runs, and the journal may have lost its last commits."""
    world.server_dies()
    world.boot += 1
    world.ledger.fails("host")
    for container in world.engine.containers.values():
        world.engine.kill(container)
    if commits_lost:
        world.disk.journal = world.disk.copied.copy()
        world.ledger.fails("journal")
    return True


@act("spool", CALLS, weight=3)
def corrupt_tail(world: World, number: int, _: int) -> bool:
    """The disk spoils the last byte of a finished output."""
    row = world.disk.journal.executions.get(CALLS[number])
    if row is None or row.final is None or not world.disk.file(row.id).content:
        return False
    world.disk.file(row.id).content[-1] = None
    world.ledger.command(row.id).spoilt = True
    return True


@act("time", tuple(f"{seconds:g} s" for seconds in WAITS_S), weight=3)
def wait(world: World, which: int, _: int) -> bool:
    world.pass_time(WAITS_S[which])
    return True
