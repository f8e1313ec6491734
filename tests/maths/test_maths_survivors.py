"""What `make mutate` found untested in maths/: cases where two formulas that look alike part."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from instructgpt.maths.calibration import best_temperature, pair_nll, reliability
from instructgpt.maths.kl import categorical_kl
from instructgpt.maths.length_control import correlation, length_controlled_win_rate, value_at
from instructgpt.maths.ppo import value_loss
from instructgpt.maths.ranking import pairwise_accuracy, ranking_loss


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


def test_a_value_that_fell_is_clipped_towards_its_old_place() -> None:
    # old 1, new 0.5, clip 0.2: clipped 0.8; return 0: plain 0.25, clipped 0.64 is the larger; half of it
    one = torch.ones(1, dtype=torch.bool)
    loss, stats = value_loss(torch.tensor([0.5]), torch.tensor([1.0]), torch.zeros(1), one, 0.2, 1)
    assert loss.item() == pytest.approx(0.32, abs=1e-6)
    assert stats["value_clip_fraction"].item() == 1.0


def test_a_prompt_with_a_single_pair_weighs_as_much_as_any() -> None:
    # margins ln 3 (loss ln 4/3) and 0 (loss ln 2): their mean
    rewards = torch.tensor([math.log(3), 0.0, 1.0, 1.0])
    loss, pairs = ranking_loss(rewards, torch.tensor([1, 2, 1, 2]), [2, 2])
    assert pairs == 2
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, abs=1e-6)


def test_win_rate_where_lengths_say_nothing() -> None:
    """All differences equal: the plain mean. Differences of +-1: what another library fits."""
    outcomes = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert length_controlled_win_rate(outcomes, torch.full((4,), 9), torch.full((4,), 7)) == 0.75
    ours, theirs = torch.tensor([5, 4, 5, 4]), torch.tensor([4, 5, 4, 5])  # standard deviation 1
    fit = LogisticRegression(C=1.0, tol=1e-12).fit(torch.tanh((ours - theirs)[:, None].double()), outcomes)
    expected = 1 / (1 + math.exp(-fit.intercept_[0]))
    assert length_controlled_win_rate(outcomes, ours, theirs) == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(0.75, abs=1e-3)
