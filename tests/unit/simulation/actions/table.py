"""The table of what can happen. An action is a name and two small numbers, so that a history is a list that can be cut.

Each returns whether it happened: what is not possible just now changes nothing and leaves no trace in the history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.unit.simulation.init import Held
from tests.unit.simulation.network import Message
from tests.unit.simulation.server.executions import LiveExecution
from tests.unit.simulation.world import World

CALLS = ("c0", "c1", "c2", "c3")
SANDBOXES = ("s0", "s1")
KEYS = (*CALLS, *SANDBOXES)  # what requests are about, but for those that open sessions
SESSIONS = ("h0", "h1")
NO_WORDS = ("",)
OLDEST_OR_NEWEST = ("", "(the newest request)")
WAITS_S = (1.0, 40.0, 200.0, 700.0)
UNFENCED = ("Unauthorized", "Unreachable")  # said of an id that its caller alone could send; so he does not send it again

Action = tuple[str, int, int]
Act = Callable[[World, int, int], bool]


@dataclass(frozen=True)
class Entry:
    """One action. `first` and `second` are the words for its numbers, `weight` how often it is tried beside others."""

    do: Act
    first: Sequence[str]
    second: Sequence[str]
    weight: int


GROUPS: dict[str, dict[str, Entry]] = {}
"""Fault group → action → its entry."""


def act(group: str, first: Sequence[str] = NO_WORDS, second: Sequence[str] = NO_WORDS, weight: int = 1) -> Callable[[Act], Act]:
    def enter(do: Act) -> Act:
        GROUPS.setdefault(group, {})[do.__name__] = Entry(do, first, second, weight)
        return do

    return enter


def message_about(world: World, key: int, newest: int = 0) -> Message | None:
    """A request on its way about that: the oldest, or the newest."""
    return message_of(world, KEYS[key], newest)


def message_of(world: World, key: str, newest: int = 0) -> Message | None:
    order = reversed(world.network) if newest else world.network
    return next((message for message in order if message.key == key), None)


def live_execution(world: World, id_: str) -> LiveExecution | None:
    return None if world.server is None else world.server.of(id_)


def held_by_an_init(world: World, id_: str) -> Held | None:
    for container in world.engine.containers.values():
        if container.init is not None:
            for held in (*container.init.table.values(), *container.init.behind):
                if held.id == id_:
                    return held
    return None
