"""What `make mutate` found untested in maths/: cases where two formulas that look alike part."""

from __future__ import annotations

import math

import pytest
import torch

from instructgpt.maths.calibration import best_temperature, pair_nll, reliability
from instructgpt.maths.kl import categorical_kl
from instructgpt.maths.length_control import correlation, value_at
from instructgpt.maths.ranking import pairwise_accuracy


def test_reliability_has_ten_bins_of_equal_width() -> None:
    """Confidences 0.52, 0.57, 0.62, ... lie one in each bin of width 0.05; the upper bins may stay empty."""
    confidence = torch.arange(10, dtype=torch.float64) * 0.05 + 0.52
    curve = reliability(torch.logit(confidence))
    assert curve.counts.tolist() == [1] * 10
    assert curve.confidence.tolist() == pytest.approx(confidence.tolist(), abs=1e-12)
    low = reliability(torch.logit(confidence[:3]))
    assert low.counts.tolist() == [1, 1, 1] + [0] * 7
    assert low.confidence[:3].tolist() == pytest.approx([0.52, 0.57, 0.62], abs=1e-12)
    assert low.accuracy[:3].tolist() == [1.0, 1.0, 1.0] and low.accuracy[3:].isnan().all()


def test_a_large_margin_on_the_right_side_costs_little() -> None:
    # -log sigmoid(ln 3) = ln(4/3)
    assert pair_nll(torch.tensor([math.log(3)])) == pytest.approx(math.log(4 / 3))


def test_a_pair_of_equal_rewards_is_not_a_wrong_one() -> None:
    """Without a wrong pair there is no best temperature, however small the margins."""
    assert best_temperature(torch.tensor([1.0, 0.0])) is None
    assert best_temperature(torch.tensor([0.5, 2.0])) is None


def test_small_margins_are_right_too() -> None:
    assert pairwise_accuracy(torch.tensor([0.5, 0.2]), torch.tensor([1, 2]), [2]) == (1.0, 1)


def test_divergence_is_taken_row_by_row() -> None:
    # (3/4, 1/4) against (1/2, 1/2), and against itself
    p = torch.tensor([[math.log(3.0), 0.0], [1.0, 2.0]])
    q = torch.tensor([[5.0, 5.0], [1.0, 2.0]])
    expected = [0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.0]
    assert categorical_kl(p, q).tolist() == pytest.approx(expected, abs=1e-6)


def test_small_numbers_are_correlated_and_have_a_slope() -> None:
    """Neither measure depends on the units of x and y."""
    x, y = torch.tensor([0.0, 1e-3, 2e-3]), torch.tensor([0.0, 2e-3, 4e-3])
    assert correlation(x, y).item() == pytest.approx(1.0, abs=1e-6)
    assert value_at(x, y, 3e-3).item() == pytest.approx(6e-3, rel=1e-5)
