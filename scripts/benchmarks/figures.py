"""What is computed from samples: percentiles, and ratios with how far they can be trusted. No I/O, no clock."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 500  # of a bootstrap: its interval no longer moves in the second digit
Rounds = Sequence[Sequence[float]]
"""Samples by round: those of one turn were taken in a row, so they share what the machine did meanwhile."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the values lies, interpolated between neighbours. Raises ValueError on none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    if ordered[below] == ordered[above]:
        return ordered[below]  # infinite ones have no difference
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def flat(rounds: Rounds) -> list[float]:
    """All samples of all rounds."""
    return [value for values in rounds for value in values]


@dataclass(frozen=True)
class Ratio:
    """How many times as large, and the interval in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "–"
        return f"{number(self.value)} ({number(self.low)}–{number(self.high)})"

    def inverse(self) -> Ratio:
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)


def ratio(above: Rounds, below: Rounds, seed: int = 0, statistic: Callable[[Sequence[float]], float] = statistics.median) -> Ratio:
    """`statistic` of all samples of `above`, divided by that of `below`.

    The interval is a bootstrap over rounds, not samples: what disturbs a machine lasts longer than one call. Where both were
    measured in the same rounds these are drawn together, so that drift that hit both cancels out.
    """
    value = _quotient(statistic(flat(above)), statistic(flat(below)))
    dice = random.Random(seed)
    paired = len(above) == len(below)
    found = []
    for _ in range(RESAMPLES):
        drawn = dice.choices(range(len(above)), k=len(above))
        other = drawn if paired else dice.choices(range(len(below)), k=len(below))
        divisor = statistic([value for at in other for value in below[at]])
        found.append(_quotient(statistic([value for at in drawn for value in above[at]]), divisor))
    return Ratio(value, percentile(found, 0.025), percentile(found, 0.975))


def _quotient(above: float, below: float) -> float:
    """Infinite over nothing: a peer of whose calls none ended in a short window."""
    return above / below if below else math.inf


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How much y grows for each unit of x, by least squares. 0 where x never changes."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if len(set(xs)) < 2:
        return 0.0
    return statistics.linear_regression(xs, ys).slope


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds * 1e6)} µs"


def size(count: float) -> str:
    """Bytes in the binary unit that suits them."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(count) >= length:
            return f"{number(count / length)} {unit}"
    return f"{number(count)} B"


def speed(bytes_per_s: float) -> str:
    """Decimal units, as the targets have them."""
    if bytes_per_s >= 1e9:
        return f"{number(bytes_per_s / 1e9)} GB/s"
    return f"{number(bytes_per_s / 1e6)} MB/s"
