"""How durations are spread: quantiles, the bins of a histogram, and round numbers for an axis. Seconds everywhere."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_ROUND = (1.0, 2.0, 5.0, 10.0)
_ROUND_MINUTES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 240.0, 360.0, 720.0, 1440.0)
_WIDE = 40.0  # from this ratio of the longest to the median on, bins grow with the durations


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above (nearest rank). `ordered` is sorted and not empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Durations:
    count: int
    p50: float
    p95: float
    longest: float
    total: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Durations | None:
        if not values:
            return None
        ordered = sorted(values)
        return cls(len(ordered), quantile(ordered, 0.5), quantile(ordered, 0.95), ordered[-1], math.fsum(ordered))


def bin_edges(values: Sequence[float], most: int = 32) -> list[float]:
    """Edges of bins that hold all values: even ones from 0, or, where a few values are far longer than most, growing by a
    constant ratio. Each bin is from its edge up to, and not including, the next."""
    durations = Durations.of(values)
    if durations is None:
        return []
    longest, median = max(durations.longest, 1e-3), max(durations.p50, 1e-3)
    if longest / median < _WIDE:
        step = round_step(longest / most)
        return [step * number for number in range(int(longest / step) + 2)]
    low = max(min(values), median / 100, 1e-3)
    first = math.floor(math.log10(low) * 5)
    last = math.floor(math.log10(longest) * 5) + 1
    return [0.0, *(10 ** (number / 5) for number in range(first + 1, last + 1))]


def count_into(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values each bin holds."""
    counts = [0] * max(0, len(edges) - 1)
    for value in values:
        counts[min(len(counts) - 1, max(0, bisect_right(edges, value) - 1))] += 1
    return counts


def round_step(at_least: float) -> float:
    """The next of 1, 2, 5 × 10ⁿ; above ten seconds, of the numbers that clocks have."""
    if at_least > 10:
        for minutes in _ROUND_MINUTES:
            if minutes * 60 >= at_least:
                return minutes * 60
    power: float = 10.0 ** math.floor(math.log10(max(at_least, 1e-6)))
    return next(power * each for each in _ROUND if power * each >= at_least * (1 - 1e-9))


def ticks(end: float, about: int = 8) -> list[float]:
    """Round numbers from 0 to `end`."""
    if end <= 0:
        return [0.0]
    step = round_step(end / about)
    return [step * number for number in range(int(end / step * (1 + 1e-9)) + 1)]
