"""Newton's logistic regression against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from instructgpt.maths.logistic import logistic_fit


def test_a_lone_intercept_is_the_log_odds() -> None:
    wins, totals = torch.tensor([[3.0, 0.5], [1.0, 0.0]]), torch.tensor([[4.0, 1.0], [4.0, 0.0]])
    found = logistic_fit(torch.ones(2, 1), wins, totals, torch.zeros(1))
    # 3.5 of 5, and 1 of 4
    assert found[:, 0].tolist() == pytest.approx([math.log(3.5 / 1.5), math.log(1 / 3)], abs=1e-12)


@pytest.mark.parametrize("precision", [0.01, 1.0, 30.0])
def test_against_scikit_learn(precision: float) -> None:
    """Shares as targets: every row once as a win and once as a loss, weighted."""
    draw = np.random.default_rng(0)
    features = draw.normal(size=(60, 3))
    shares, weights = draw.choice([0.0, 0.5, 1.0], size=60), draw.uniform(0.1, 2.0, size=60)
    model = LogisticRegression(C=1 / precision, fit_intercept=False, tol=1e-12, max_iter=10000)
    both = np.concatenate([features, features])
    model.fit(both, np.repeat([1, 0], 60), np.concatenate([weights * shares, weights * (1 - shares)]))
    found = logistic_fit(
        torch.from_numpy(features),
        torch.from_numpy(weights * shares),
        torch.from_numpy(weights),
        torch.full((3,), precision),
    )
    assert found[0].numpy() == pytest.approx(model.coef_[0], abs=2e-6)


def test_many_weightings_at_once_are_each_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    totals = torch.randint(0, 4, (5, 30), generator=generator).double()
    wins = totals * torch.rand(5, 30, generator=generator, dtype=torch.float64)
    together = logistic_fit(features, wins, totals, torch.ones(2))
    for row in range(5):
        alone = logistic_fit(features, wins[row], totals[row], torch.ones(2))[0]
        assert together[row].tolist() == pytest.approx(alone.tolist(), abs=1e-9)


def test_where_one_side_always_wins_nothing_overflows() -> None:
    found = logistic_fit(torch.ones(1, 1), torch.tensor([5.0]), torch.tensor([5.0]), torch.zeros(1))
    assert 15 < float(found) < math.inf


def test_a_large_coefficient_is_reached_in_bounded_steps() -> None:
    """Nine of ten won with a feature of 1/64: the coefficient is 64 ln 9 = 141, Newton's first step 102."""
    found = logistic_fit(
        torch.full((1, 1), 1 / 64), torch.tensor([9.0]), torch.tensor([10.0]), torch.zeros(1)
    )
    assert float(found) == pytest.approx(64 * math.log(9), rel=1e-9)


def test_a_problem_without_a_maximum_does_not_hold_up_the_others() -> None:
    features, totals = torch.full((1, 1), 1 / 64), torch.full((2, 1), 10.0)
    found = logistic_fit(features, torch.tensor([[10.0], [6.0]]), totals, torch.zeros(1))
    assert float(found[1]) == pytest.approx(64 * math.log(1.5), rel=1e-9)
