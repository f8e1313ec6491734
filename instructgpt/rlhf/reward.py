"""Step 2: the reward of every token, R(x, y) = r(x, y) - beta log(pi_RL(y|x) / pi_SFT(y|x)), split up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.maths.kl import k1, k3
from instructgpt.rlhf.rollout import Rollout


@dataclass(frozen=True)
class Rewards:
    """What the replies earned, in reward units."""

    per_token: Tensor
    """(B, R): -beta * log-ratio at each token, and the score on the last real one; 0 beyond the reply."""
    scores: Tensor
    """(B,): the scores after the missing-end rule."""
    kl: Tensor
    """(B,) nats per reply: sum over the reply of log pi - log pi_ref (k1): what is paid for."""
    kl_k3: Tensor
    """(B,) nats per reply, never negative: the same by the estimator k3, of less variance; for logs only."""


def shape_rewards(rollout: Rollout, beta: float, missing_eos_penalty: float | None = None) -> Rewards:
    """Per-token rewards of Eq. 2 without its pretraining term (section 3.5).

    The score lands on the last real token: the end id itself where there is one (field fault 4). So the
    return of the first token at gamma = lambda = 1 is score - beta * KL, whatever the shape. KL as a reward
    for each token: [L], train_policy.py.

    `missing_eos_penalty` *replaces* the score of a reply that did not end itself ([N], [L] use -1); None =
    off.
    """
    episodes = rollout.episodes
    ratio = torch.where(rollout.mask, k1(rollout.old_logprobs, rollout.reference_logprobs), 0.0)  # (B, R)
    scores = rollout.scores
    if missing_eos_penalty is not None:
        scores = torch.where(episodes.stopped, scores, torch.full_like(scores, missing_eos_penalty))
    per_token = -beta * ratio
    per_token = per_token.scatter_add(1, episodes.last_index[:, None], scores[:, None])
    estimate = torch.where(rollout.mask, k3(rollout.old_logprobs, rollout.reference_logprobs), 0.0)
    return Rewards(per_token, scores, ratio.sum(1), estimate.sum(1))
