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
        up *= 1 + min(stake, 0.5 / mean) * (value - mean)
        down *= 1 - min(stake, 0.5 / (1 - mean)) * (value - mean)
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
