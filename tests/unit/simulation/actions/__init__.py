"""What can happen next, each by its name."""

from __future__ import annotations

from collections.abc import Sequence

from tests.unit.simulation.actions import callers, inside, outside, sandboxes, servers, sessions
from tests.unit.simulation.actions.table import GROUPS, Act, Action
from tests.unit.simulation.world import World

__all__ = ["GROUPS", "TABLE", "Action", "callers", "do", "inside", "outside", "sandboxes", "servers", "sessions", "words"]

_ENTRIES = {name: entry for group in GROUPS.values() for name, entry in group.items()}
TABLE: dict[str, Act] = {name: entry.do for name, entry in _ENTRIES.items()}


def do(world: World, action: Action) -> bool:
    """Let it happen. False: it is not possible just now. Raises BrokenPromise."""
    name, first, second = action
    if not TABLE[name](world, first, second):
        return False
    world.check()
    return True


def words(history: Sequence[Action]) -> str:
    """A history for people: `call c0 (quick) in s0 → request c0 → …`"""
    return " → ".join(_words(action) for action in history)


def _words(action: Action) -> str:
    name, first, second = action
    entry = _ENTRIES[name]
    return " ".join(word for word in (name.replace("_", " "), entry.first[first], entry.second[second]) if word)
