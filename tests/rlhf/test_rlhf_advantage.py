"""advantage.py: what is whitened, and what is left alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from instructgpt.maths.gae import gae
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.reward import shape_rewards


def test_advantages_are_centred_and_scaled_over_the_whole_round(rollout) -> None:
    rewards = shape_rewards(rollout, 0.1)
    advantages, returns = estimate(rollout, rewards, gamma=1.0, lam=0.95)
    counted = advantages[rollout.mask]
    assert counted.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert counted.var(unbiased=False).item() == pytest.approx(1.0, abs=1e-5)
    assert advantages[~rollout.mask].abs().sum() == 0
    plain, plain_returns = gae(rollout.values, rewards.per_token, rollout.mask, 1.0, 0.95)
    torch.testing.assert_close(returns, plain_returns)  # never whitened
    m = plain[rollout.mask]
    expected = (plain - m.mean()) / m.var(unbiased=False).sqrt()
    torch.testing.assert_close(counted, expected[rollout.mask], atol=1e-5, rtol=1e-5)


def test_without_whitening_it_is_gae(rollout) -> None:
    rewards = shape_rewards(rollout, 0.1)
    found = estimate(rollout, rewards, gamma=0.9, lam=0.5, whiten_advantages=False)
    torch.testing.assert_close(found, gae(rollout.values, rewards.per_token, rollout.mask, 0.9, 0.5))


def test_whitened_rewards_keep_their_mean(rollout) -> None:
    rewards = shape_rewards(rollout, 0.1)
    _, returns = estimate(rollout, rewards, gamma=1.0, lam=1.0, whiten_rewards=True)
    counted = rewards.per_token[rollout.mask]
    mean, std = counted.mean(), counted.var(unbiased=False).sqrt()
    scaled = torch.where(rollout.mask, (rewards.per_token - mean) / std + mean, 0.0)
    torch.testing.assert_close(returns[:, 0], scaled.sum(1), atol=1e-5, rtol=1e-5)


def test_a_constant_on_every_score_is_taken_up_by_a_fitting_value(rollout) -> None:
    """Scores + 10 with V + 10 give the same advantages at lambda = gamma = 1."""
    shifted = dataclasses.replace(
        rollout, scores=rollout.scores + 10, values=torch.where(rollout.mask, rollout.values + 10, 0.0)
    )
    found = [
        estimate(r, shape_rewards(r, 0.1), gamma=1.0, lam=1.0, whiten_advantages=False)[0]
        for r in (rollout, shifted)
    ]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
