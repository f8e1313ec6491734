"""The confidence sequence: against the formulas written out as a loop, and in simulation at all times."""

import math

import numpy as np
import pytest
import torch

from instructgpt.maths.betting import confidence_sequence, first_refuted, log_capital


def slow(values: list[float], mean: float, alpha: float) -> list[float]:
    """The hedged capital of Waudby-Smith and Ramdas (2024), theorem 3, one value at a time."""
    up = down = 1.0
    running, spread = 0.5, 0.25  # sums of (1/2 + values) and (1/4 + squares)
    spread_sum, total = 0.25, 0.5
    capital = []
    for t, value in enumerate(values, start=1):
        stake = math.sqrt(2 * math.log(2 / alpha) / (spread * t * math.log(1 + t)))
        up *= 1 + min(stake, 0.5 / mean if mean else math.inf) * (value - mean)
        down *= 1 - min(stake, 0.5 / (1 - mean) if mean < 1 else math.inf) * (value - mean)
        capital.append(max(up, down) / 2)
        total += value
        running = total / (t + 1)
        spread_sum += (value - running) ** 2
        spread = spread_sum / (t + 1)
    return capital


def test_capital_against_the_loop() -> None:
    values = [1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 0.25, 1.0]
    found = log_capital(torch.tensor(values), 0.4, 0.95).exp().tolist()
    assert found == pytest.approx(slow(values, 0.4, 0.05), rel=1e-12)
    both = log_capital(torch.tensor([values, values[::-1]]), 0.4, 0.95)
    assert both[1].exp().tolist() == pytest.approx(slow(values[::-1], 0.4, 0.05), rel=1e-12)


def slow_sequence(values: list[float], alpha: float) -> list[list[float]]:
    """The intervals as they are defined: from every mean of the grid that no capital has refuted yet, a step
    to each side; once none is left, the last interval."""
    capitals = [slow(values, k / 1000, alpha) for k in range(1001)]
    left, ends = list(range(1001)), [[0.0, 1.0]]
    for t in range(len(values)):
        left = [k for k in left if capitals[k][t] < 1 / alpha]
        ends.append([max(left[0] - 1, 0) / 1000, min(left[-1] + 1, 1000) / 1000] if left else ends[-1])
    return ends[1:]


@pytest.mark.parametrize("mean", [0.3, 0.85])
def test_bets_grow_smaller_as_values_come_in(mean: float) -> None:
    """So many values that the stakes are not cut any more, and the bets on either side win."""
    values = [0.0, 1.0, 0.5, 1.0, 0.25, 1.0, 0.75, 0.5, 1.0, 0.0] * 6
    stake = math.sqrt(2 * math.log(2 / 0.1) / (0.15 * 60 * math.log(61)))  # the variance is about 0.15
    assert stake < 0.5 / max(mean, 1 - mean)
    found = log_capital(torch.tensor(values), mean, 0.9).exp().tolist()
    assert found == pytest.approx(slow(values, mean, 0.1), rel=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.5, 1.0, 0.25, 1.0, 1.0, 0.75] * 3,
        [0.0] * 5 + [1.0] * 20,  # of two means: in the end every one is refuted
    ],
)
def test_the_sequence_against_the_loop(values: list[float]) -> None:
    expected = slow_sequence(values, 0.5)
    found = confidence_sequence(torch.tensor(values), level=0.5)
    assert found.shape == (len(values), 2)
    assert found.flatten().tolist() == pytest.approx([end for both in expected for end in both], abs=1e-12)
    assert (expected[-1] == expected[-2]) == (values[0] == 0.0)


def test_it_is_refuted_when_the_loop_says() -> None:
    """A level of its own has stakes of its own: with those of 95 % it would be after 50 values."""
    values = [1.0, 1.0, 0.5, 0.0] * 15
    expected = next(t for t, capital in enumerate(slow(values, 0.5, 0.2), start=1) if capital >= 5)
    assert first_refuted(torch.tensor(values), 0.5, level=0.8) == expected == 54


def test_a_capital_at_the_bound_refutes() -> None:
    # against 1/4 a stake of 2 doubles on each 3/4: half the capital becomes 2 = 1 / (1 - 0.5)
    values = torch.tensor([0.75, 0.75])
    assert first_refuted(values, 0.25, level=0.5) == 2
    # 1/4 is the largest that is refuted: what stays begins a step above it, and the end is a step below that
    assert confidence_sequence(values, level=0.5)[1, 0].item() == 0.25


def test_intervals_are_nested_and_hold_what_is_not_refuted() -> None:
    values = torch.tensor(np.random.default_rng(3).choice([0.0, 0.5, 1.0], p=[0.2, 0.2, 0.6], size=300))
    found = confidence_sequence(values)
    assert bool((found[1:, 0] >= found[:-1, 0]).all() and (found[1:, 1] <= found[:-1, 1]).all())
    low, high = found[-1].tolist()
    bound = math.log(20)
    assert float(log_capital(values, (low + high) / 2).max()) < bound
    for outside in (low - 0.005, high + 0.005):
        assert float(log_capital(values, outside).max()) >= bound
    # the width of a fixed interval is 2 * 1.96 * 0.4 / sqrt(300) = 0.09; this one pays for looking
    assert 0.09 < high - low < 0.2 and low < 0.7 < high


def test_all_won_is_decided_early() -> None:
    # a bet that can lose half of the capital gains half of it: 1.5^9 / 2 = 19.2 < 20 <= 1.5^10 / 2
    assert first_refuted(torch.ones(50)) == 10
    assert first_refuted(torch.ones(9)) is None
    assert first_refuted(torch.full((400,), 0.5)) is None


def test_the_truth_is_refuted_at_any_time_in_one_of_twenty() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], p=[0.3, 0.1, 0.6], size=(4000, 400))
    ever = (log_capital(torch.from_numpy(values), 0.65) >= math.log(20)).any(dim=1).double().mean()
    assert float(ever) < 0.05


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_the_range(value: float) -> None:
    low, high = confidence_sequence(torch.full((200,), value))[-1].tolist()
    assert (low == 0.0 and high < 0.1) if value == 0 else (low > 0.9 and high == 1.0)
