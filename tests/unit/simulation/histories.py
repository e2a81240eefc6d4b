"""Histories: drawn from a seed, replayed, made as short as they can be and still break the promise."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.unit.simulation.actions import GROUPS, Action, do
from tests.unit.simulation.ledger import BrokenPromise
from tests.unit.simulation.world import World

STEPS = (60, 400)  # how many attempts a history has, at least and at most; many are not possible when they come
WORK_TO_FAULTS = 3  # how much likelier than its weight work is: a world in which only faults happen gets nowhere
WORK = ("work", "sessions")
WITH_SESSIONS = 0.4  # of the histories
SESSION_FAULTS = ("late sessions", "ends of sessions")
OPEN_SESSION: tuple[Action, ...] = (
    ("open_session", 0, 0), ("request_session", 0, 0), ("deliver_session", 0, 0), ("init_reads", 0, 0), ("server_reads", 0, 0),
)  # fmt: skip
BEGIN_WITH_ONE = 0.7  # of the histories with sessions
FAULTS = tuple(group for group in GROUPS if group not in (*WORK, *SESSION_FAULTS))


@dataclass(frozen=True)
class Violation:
    """A history that breaks a promise. `in_the_end`: only after its last action, when nothing fails any more."""

    seed: int
    history: tuple[Action, ...]
    promise: str
    message: str
    in_the_end: bool


def table(groups: Iterable[str]) -> list[tuple[str, int, int]]:
    """The actions of those fault groups and of all work, each as often as it weighs."""
    chosen: list[tuple[str, int, int]] = []
    for group in ("work", *groups):
        for name, entry in GROUPS[group].items():
            weight = entry.weight * WORK_TO_FAULTS if group in WORK else entry.weight
            chosen += [(name, len(entry.first), len(entry.second))] * weight
    return chosen


def drawn(source: random.Random) -> list[str]:
    """A few kinds of faults; with or without sessions."""
    faults = source.sample(FAULTS, source.randint(1, 5))
    if source.random() < WITH_SESSIONS:
        faults += ["sessions", *source.sample(SESSION_FAULTS, source.randint(0, len(SESSION_FAULTS)))]
    return faults


def draw(
    seed: int, off: frozenset[str] = frozenset(), groups: Sequence[str] = (), begin: Sequence[Action] = ()
) -> tuple[list[Action], BrokenPromise | None, bool]:  # fmt: skip
    """Live through one history. Few kinds of faults at a time, so that each gets far.

    Args:
        groups: the kinds of faults; a few drawn ones where none are given.
        begin: what happens before anything is drawn.
    Returns:
        What happened, the promise it broke, and whether that came only in the end.
    """
    source = random.Random(seed)
    uniform = source.random
    groups = groups or drawn(source)
    if "sessions" in groups and not begin and uniform() < BEGIN_WITH_ONE:
        begin = OPEN_SESSION
    actions = table(groups)
    count = len(actions)
    world, history = World(off), list(begin)
    for action in begin:
        do(world, action)
    for _ in range(source.randint(*STEPS)):
        name, first, second = actions[int(uniform() * count)]
        action = (name, int(uniform() * first), int(uniform() * second))
        try:
            if do(world, action):
                history.append(action)
        except BrokenPromise as error:
            history.append(action)
            return history, error, False
    try:
        world.settle()
    except BrokenPromise as error:
        return history, error, True
    return history, None, False


def replay(history: Sequence[Action], off: frozenset[str] = frozenset()) -> tuple[list[Action], BrokenPromise | None, bool]:
    """The same actions again, as far as they are possible; then the end. Returns as `draw` does."""
    world, happened = World(off), []
    for action in history:
        try:
            if do(world, action):
                happened.append(action)
        except BrokenPromise as error:
            happened.append(action)
            return happened, error, False
    try:
        world.settle()
    except BrokenPromise as error:
        return happened, error, True
    return happened, None, False


def shortest(history: Sequence[Action], promise: str, off: frozenset[str] = frozenset()) -> tuple[list[Action], BrokenPromise, bool]:
    """Leave out whatever can be left out, larger pieces first, until every action is needed to break that promise."""
    best, error, in_the_end = replay(history, off)
    assert error is not None
    size = max(1, len(best) // 2)
    while True:
        at, shorter = 0, False
        while at < len(best):
            happened, found, end = replay(best[:at] + best[at + size :], off)
            if found is not None and found.promise == promise and len(happened) < len(best):
                best, error, in_the_end, shorter = happened, found, end, True
            else:
                at += size
        if size == 1 and not shorter:
            return best, error, in_the_end
        size = max(1, size // 2)


def search(off: frozenset[str], groups: Sequence[str], seeds: Iterable[int], begin: Sequence[Action] = ()) -> Violation | None:
    """The first violation among those histories, as short as it gets."""
    for seed in seeds:
        history, error, _ = draw(seed, off, groups, begin)
        if error is not None:
            best, error, in_the_end = shortest(history, error.promise, off)
            return Violation(seed, tuple(best), error.promise, str(error), in_the_end)
    return None
