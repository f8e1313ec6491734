"""Step 3: how much better than expected each token was."""

from __future__ import annotations

import torch
from torch import Tensor

from instructgpt.maths.gae import gae
from instructgpt.maths.masked import whiten
from instructgpt.rlhf.reward import Rewards
from instructgpt.rlhf.rollout import Rollout


def estimate(
    rollout: Rollout,
    rewards: Rewards,
    *,
    gamma: float,
    lam: float,
    whiten_rewards: bool = False,
    whiten_advantages: bool = True,
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (B, R), 0 beyond each reply.

    Whitening is over all counted tokens of the whole rollout, with the biased variance: `whiten_rewards`
    scales the rewards before GAE and keeps their mean ([L]: shift_mean=False), `whiten_advantages` makes the
    advantages mean 0 and variance 1. The returns that the value network learns stay in reward units unless
    the rewards themselves were whitened.
    """
    per_token = rewards.per_token
    if whiten_rewards:
        per_token = whiten(per_token, rollout.mask, shift_mean=False)
    with torch.no_grad():
        advantages, returns = gae(rollout.values, per_token, rollout.mask, gamma, lam)
        if whiten_advantages:
            advantages = whiten(advantages, rollout.mask)
    return advantages, returns
