"""Who is measured when: every kind has one turn in each round, so that drift of the machine hits all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def order(names: Sequence[str], rounds: int, seed: int) -> Iterator[list[str]]:
    """For each round the order of turns, drawn anew: nobody is always measured with the caches that the same other left behind."""
    dice = random.Random(seed)
    for _ in range(rounds):
        turn = list(names)
        dice.shuffle(turn)
        yield turn


def take_turns(
    turns: Mapping[str, Callable[[], T]], rounds: int, seed: int, advance: Callable[[str], None] = lambda name: None
) -> dict[str, list[T]]:
    """What each turn returned, by kind and then by round. `advance` is called with a kind's name after its turn."""
    taken: dict[str, list[T]] = {name: [] for name in turns}
    for names in order(list(turns), rounds, seed):
        for name in names:
            taken[name].append(turns[name]())
            advance(name)
    return taken


def rounded(values: Iterable[float]) -> list[float]:
    """As they are saved: tenths of a microsecond are below every noise."""
    return [round(value, 7) for value in values]
