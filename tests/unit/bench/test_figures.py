"""The arithmetic behind docs/performance.md."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmarks.figures import Ratio, duration, flat, number, percentile, ratio, size, slope, speed

SAMPLES = st.lists(st.floats(min_value=1e-6, max_value=1e3), min_size=1, max_size=50)


def test_percentile_of_an_even_ladder_is_its_rung() -> None:
    ladder = list(range(101))
    assert [percentile(ladder, share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)] == [0, 50, 95, 99, 100]


def test_percentile_lies_between_neighbours_by_their_distance() -> None:
    assert percentile([10.0, 20.0], 0.25) == 12.5


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(SAMPLES)
def test_percentiles_rise_and_the_middle_one_is_the_median(values: list[float]) -> None:
    shown = [percentile(values, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert shown == sorted(shown)
    assert shown[0] == min(values)
    assert shown[-1] == max(values)
    assert math.isclose(shown[2], statistics.median(values))


def test_percentile_of_endless_values_is_endless() -> None:
    assert percentile([math.inf, math.inf], 0.975) == math.inf


def test_ratio_divides_medians_and_its_interval_holds_it() -> None:
    found = ratio([[2.0, 2.2], [1.9, 2.1], [2.0, 2.0]], [[1.0, 1.1], [0.9, 1.0], [1.0, 1.0]], seed=7)
    assert found.value == 2.0
    assert found.low <= found.value <= found.high


def test_drift_that_hits_both_alike_does_not_widen_the_interval() -> None:
    """A machine that gets ten times slower for half of the run: each kind alone is anybody's guess, their ratio is not."""
    slow = [[10.0] * 5] * 10 + [[1.0] * 5] * 10
    twice = [[2 * value for value in values] for values in slow]
    together = ratio(twice, slow, seed=1)
    assert (together.low, together.value, together.high) == (2.0, 2.0, 2.0)
    apart = ratio(twice, slow[:-1], seed=1)
    assert apart.high / apart.low > 2


def test_same_seed_gives_same_interval_and_another_one_another() -> None:
    above = [[float(value % 7 + 1)] for value in range(30)]
    below = [[float(value % 5 + 1)] for value in range(30)]
    by_median = ratio(above, below, seed=3, statistic=statistics.fmean)
    assert by_median == ratio(above, below, seed=3, statistic=statistics.fmean)
    assert by_median != ratio(above, below, seed=4, statistic=statistics.fmean)


def test_ratio_over_a_peer_that_managed_nothing_is_endless_and_shown_as_a_dash() -> None:
    found = ratio([[5.0]], [[0.0]])
    assert found.value == math.inf
    assert str(found) == "–"


def test_inverse_of_a_ratio_turns_its_interval_round() -> None:
    assert Ratio(2.0, 1.0, 4.0).inverse() == Ratio(0.5, 0.25, 1.0)


def test_flat_keeps_every_sample_in_order() -> None:
    assert flat([[1.0, 2.0], [], [3.0]]) == [1.0, 2.0, 3.0]


def test_slope_is_that_of_the_line_and_nothing_on_one_spot() -> None:
    assert slope([(0, 5.0), (10, 25.0), (20, 45.0)]) == pytest.approx(2.0)
    assert slope([(3, 1.0), (3, 9.0)]) == 0.0


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (number(0), "0"),
        (number(0.012345), "0.0123"),
        (number(1.0), "1.00"),
        (number(26.04), "26.0"),
        (number(1234567), "1,234,567"),
        (number(math.inf), "–"),
        (duration(2.5), "2.50 s"),
        (duration(0.0021), "2.10 ms"),
        (duration(0.00034), "340 µs"),
        (size(64 << 20), "64.0 MiB"),
        (size(1 << 30), "1.00 GiB"),
        (size(-2048), "-2.00 KiB"),
        (size(12), "12.0 B"),
        (speed(1.5e9), "1.50 GB/s"),
        (speed(500e6), "500 MB/s"),
    ],
)
def test_figures_are_shown_with_three_digits_and_their_unit(shown: str, wanted: str) -> None:
    assert shown == wanted
