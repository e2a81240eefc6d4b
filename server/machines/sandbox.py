"""The life of one sandbox, and what a hello means for it.

Rule 1: everything that decides whether a sandbox is live, trusted or given up is here.
Rule 2: a pair that is not listed raises, and changes nothing.
Rule 3: `removing` is committed before anything is removed: it fences new work.

    CREATING   in the journal; image, container and first hello are still to come
    RUNNING    its epoch is committed; it takes executions, whether or not its link is up just now
    REMOVING   takes no more; what runs is ended, then the container goes
    REMOVED    by request or lease; a tombstone
    DEAD       its container, engine, host or journal failed under it; a tombstone
    FAILED     it never came to be; a tombstone
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from server.machines.execution import Event, ListedEnded, ListedRunning, NotListed
from server.messages import Hello


class State(Enum):
    CREATING = "creating"
    RUNNING = "running"
    REMOVING = "removing"
    REMOVED = "removed"
    DEAD = "dead"
    FAILED = "failed"


LIVE = frozenset({State.CREATING, State.RUNNING, State.REMOVING})


class Happening(Enum):
    FIRST_HELLO = "its init connected for the first time"
    CREATION_FAILED = "it could not be made"
    REMOVAL = "its removal was asked for, or its lease ran out"
    CONTAINER_REMOVED = "its container is gone, as asked"
    DEATH = "its container is gone, or it was given up"


TABLE: dict[tuple[State, Happening], State] = {
    (State.CREATING, Happening.FIRST_HELLO): State.RUNNING,
    (State.CREATING, Happening.CREATION_FAILED): State.FAILED,
    (State.CREATING, Happening.REMOVAL): State.REMOVING,
    (State.RUNNING, Happening.REMOVAL): State.REMOVING,
    (State.RUNNING, Happening.DEATH): State.DEAD,
    (State.REMOVING, Happening.REMOVAL): State.REMOVING,
    (State.REMOVING, Happening.CONTAINER_REMOVED): State.REMOVED,
    (State.REMOVING, Happening.CREATION_FAILED): State.REMOVING,  # removed while it was being made
    (State.REMOVING, Happening.DEATH): State.REMOVING,  # removal goes on and finds nothing left to remove
}


class InvalidTransition(Exception):
    """This cannot happen to a sandbox in that state."""


def after(state: State, happening: Happening) -> State:
    """The state that follows. Raises InvalidTransition."""
    try:
        return TABLE[state, happening]
    except KeyError:
        raise InvalidTransition(f"{happening.name} cannot happen to a sandbox that is {state.value}") from None


# ----------------------------------------------------------------------------------------- silence, and hello


@dataclass(frozen=True)
class Known:
    """An unfinished execution, as the journal has it."""

    id: str
    number: int


@dataclass(frozen=True)
class Accepted:
    """The hello fits: each unfinished execution gets its event; `forgotten` are endings of rows that are final (or,
    never, unknown): acknowledge them again."""

    events: tuple[tuple[str, Event], ...]
    acknowledge: tuple[str, ...]


@dataclass(frozen=True)
class GiveUp:
    """The sandbox cannot be trusted to be the one in the journal: end it, what is unfinished is lost."""

    reason: str


def silence(*, alive: bool | None, silent_s: float, unreachable_after_s: float) -> GiveUp | None:
    """What it means that a sandbox has no link. None: wait on; neither a link's end nor a hung engine is a death.

    Args:
        alive: whether the engine has the very container, running; None where it does not tell.
        silent_s: for how many seconds this server has been without the link.
    """
    if alive is False:
        return GiveUp("sandbox_died")
    if silent_s > unreachable_after_s:
        return GiveUp("init_unreachable")  # UNREACH
    return None


def reconcile(
    *, epoch: str, journal_highest: int, unfinished: Iterable[Known], final: Mapping[str, int], hello: Hello
) -> Accepted | GiveUp:
    """What a hello means (REHELLO, INCARN, STRICT).

    Args:
        epoch: the incarnation committed for this sandbox, as hex.
        journal_highest: the highest number the journal has for this sandbox.
        unfinished: its unfinished executions.
        final: id → number of those among the hello's entries whose row is final.
    """
    if hello.incarnation.hex() != epoch:
        return GiveUp("sandbox_died")  # restarted: another init, another life
    if hello.highest > journal_highest:
        return GiveUp("journal_set_back")
    table = {entry.id: entry for entry in hello.entries}
    events: list[tuple[str, Event]] = []
    for known in unfinished:
        entry = table.pop(known.id, None)
        if entry is None:
            if known.number <= hello.highest:
                return GiveUp("journal_set_back")
            events.append((known.id, NotListed()))
        elif entry.number != known.number:
            return GiveUp("journal_set_back")
        elif entry.ending is None:
            events.append((known.id, ListedRunning()))
        else:
            events.append((known.id, ListedEnded(entry.ending)))
    for id_, entry in table.items():
        # What the init still holds and the journal has as unfinished is handled above. A final row whose ending is held:
        # the ack was lost. A final row that still runs, or no row at all: this journal is not the one it served.
        if final.get(id_) != entry.number or entry.ending is None:
            return GiveUp("journal_set_back")
    return Accepted(tuple(events), tuple(table))
