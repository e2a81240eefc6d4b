"""What can happen next, each by its name."""

from __future__ import annotations

from tests.unit.simulation.actions import callers, inside, outside, sandboxes, servers
from tests.unit.simulation.actions.table import GROUPS, Act, Action
from tests.unit.simulation.world import World

__all__ = ["GROUPS", "TABLE", "Action", "callers", "do", "inside", "outside", "sandboxes", "servers"]

TABLE: dict[str, Act] = {name: entry[0] for group in GROUPS.values() for name, entry in group.items()}


def do(world: World, action: Action) -> bool:
    """Let it happen. False: it is not possible just now. Raises BrokenPromise."""
    name, first, second = action
    if not TABLE[name](world, first, second):
        return False
    world.check()
    return True
