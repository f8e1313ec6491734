"""Win rates and intervals against closed forms and the normal approximation."""

import math
import random

import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.statistics import mean_interval, outcomes, win_rate


def test_ties_count_half() -> None:
    # two wins, one loss, one tie: (1 + 1 + 0 + 0.5) / 4
    assert outcomes([2.0, 3.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]) == [1.0, 1.0, 0.0, 0.5]
    assert win_rate([2.0, 3.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]).mean == 0.625


def test_interval_agrees_with_the_normal_approximation() -> None:
    # a proportion of 0.6 over 2,000 prompts: standard error sqrt(0.6 * 0.4 / 2000) = 0.010954
    ours = [1.0] * 1200 + [0.0] * 800
    estimate = win_rate(ours, [0.5] * 2000, seed=3)
    half = 1.959964 * math.sqrt(0.6 * 0.4 / 2000)
    assert estimate.mean == 0.6
    # the quantiles of 4,000 draws are themselves uncertain by about 0.0005
    assert estimate.low == pytest.approx(0.6 - half, abs=0.0012)
    assert estimate.high == pytest.approx(0.6 + half, abs=0.0012)


def test_interval_of_a_mean_of_other_values() -> None:
    draw = random.Random(0)
    values = [draw.gauss(5.0, 2.0) for _ in range(1000)]
    mean = sum(values) / 1000
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 1000)
    half = 1.959964 * spread / math.sqrt(1000)
    estimate = mean_interval(values, seed=1)
    assert estimate.mean == pytest.approx(mean, abs=1e-12)
    assert estimate.high - estimate.low == pytest.approx(2 * half, abs=0.012)


def test_equal_values_have_no_width() -> None:
    estimate = mean_interval([0.25] * 50)
    assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (0.25, 0.25, 0.25, 50)


def test_the_seed_decides_the_interval() -> None:
    values = [float(i % 7) for i in range(101)]
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=6)


def test_unmatched_rows_are_an_error() -> None:
    """Field fault 47: rows that do not match must not become a NaN or a silent cut."""
    with pytest.raises(DataError, match="3 scores can't be compared with 2"):
        win_rate([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(DataError, match="nothing to take a mean of"):
        mean_interval([])
