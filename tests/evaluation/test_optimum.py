"""The optimum of reward less beta x KL, by hand, by closed form and beside a search."""

import math

import numpy as np
import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.optimum import optimum


def test_two_replies_by_hand() -> None:
    """Rewards 0 and log 3 at beta 1: weights 1/4 and 3/4, Z = 2, KL = log 2 - H(1/4)."""
    found = optimum(np.array([[0.0, math.log(3)]]), 1.0)
    assert found.reward[0] == pytest.approx(0.75 * math.log(3))
    assert found.objective[0] == pytest.approx(math.log(2))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.kl[0] == pytest.approx(math.log(2) - entropy)


def test_no_other_policy_has_a_larger_objective() -> None:
    rng = np.random.default_rng(0)
    rewards, beta = rng.normal(size=(1, 6)), 0.4
    best = optimum(rewards, beta)
    assert best.objective[0] == pytest.approx(best.reward[0] - beta * best.kl[0])
    for _ in range(300):
        policy = rng.dirichlet(np.full(6, 0.5))
        kl = (policy * np.log(np.maximum(policy, 1e-300) * 6)).sum()
        assert (policy * rewards[0]).sum() - beta * kl <= best.objective[0] + 1e-12


def test_normal_rewards_have_the_closed_form() -> None:
    """Rewards N(1, 0.5 squared): reward 1 + 0.25 / beta, KL 0.125 / beta squared."""
    rewards = np.random.default_rng(1).normal(1.0, 0.5, size=(50, 20_000))
    found = optimum(rewards, 0.5)
    assert found.reward.mean() == pytest.approx(1.5, abs=0.01)
    assert found.kl.mean() == pytest.approx(0.5, abs=0.02)
    assert found.objective.mean() == pytest.approx(1.25, abs=0.01)


def test_large_rewards_do_not_overflow_and_equal_ones_cost_nothing() -> None:
    found = optimum(np.array([[1e5, 0.0], [7.0, 7.0]]), 0.1)
    assert found.reward == pytest.approx([1e5, 7.0])
    assert found.kl == pytest.approx([math.log(2), 0.0], abs=1e-9)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_without_a_price_there_is_no_optimum(beta: float) -> None:
    with pytest.raises(DataError, match="has no optimum"):
        optimum(np.zeros((1, 2)), beta)
