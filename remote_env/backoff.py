"""Waiting longer after each failure, never all callers at the same moment."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubling from `first_s` to `most_s`, each wait drawn from the upper half of its step."""

    def __init__(self, first_s: float, most_s: float, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._draw = draw
        self._failures = 0

    def next_s(self) -> float:
        step = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return step * (0.5 + 0.5 * self._draw())

    def reset(self) -> None:
        self._failures = 0


class Spread:
    """Waits between the reconnects of one link, so that a thousand of them that broke together do not come back together:
    each is drawn from all between `least_s` and a bound that doubles with every failure, from `first_s` to `most_s` (but at
    least twice `least_s`)."""

    def __init__(self, first_s: float, most_s: float, least_s: float, draw: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._least_s = least_s
        self._draw = draw
        self._failures = 0

    def next_s(self) -> float:
        bound = max(2 * self._least_s, min(self._most_s, self._first_s * 2.0 ** min(self._failures, 32)))
        self._failures += 1
        return self._least_s + (bound - self._least_s) * self._draw()

    def reset(self) -> None:
        self._failures = 0
