"""reward.py: where the score lands, what KL costs, and the reviewer's invariant 2."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from instructgpt.data.records import Prompt
from instructgpt.generation.engine import Completion
from instructgpt.maths.gae import gae
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import Rollout, build_episodes


def test_by_hand() -> None:
    # reply 1: log-ratios 0.5 and -0.25, score 2, beta 0.1: rewards -0.05 and 0.025 + 2
    # reply 2: log-ratio 1, score -3: reward -0.1 - 3
    made = build_episodes(
        [Prompt.of("a"), Prompt.of("b")],
        [[9], [9]],
        [Completion([7, 3], [-1.0, -1.0], True), Completion([3], [-1.0], True)],
    )
    old = torch.tensor([[-1.0, -1.0], [-1.0, 0.0]])
    reference = torch.tensor([[-1.5, -0.75], [-2.0, 0.0]])
    rollout = Rollout(made, old, reference, torch.zeros(2, 2), torch.tensor([2.0, -3.0]))
    rewards = shape_rewards(rollout, 0.1)
    torch.testing.assert_close(rewards.per_token, torch.tensor([[-0.05, 2.025], [-3.1, 0.0]]))
    torch.testing.assert_close(rewards.kl, torch.tensor([0.25, 1.0]))


@pytest.mark.parametrize("beta", [0.0, 0.02, 0.7])
def test_invariant_2_return_is_score_minus_beta_kl(rollout, beta) -> None:
    """Invariant 2, field fault 4: for gamma = lambda = 1 and every shape, one token and full length too."""
    rewards = shape_rewards(rollout, beta)
    _, returns = gae(rollout.values, rewards.per_token, rollout.mask, 1.0, 1.0)
    for row, n in enumerate(rollout.episodes.response_length.tolist()):
        kl = sum((rollout.old_logprobs[row, t] - rollout.reference_logprobs[row, t]).item() for t in range(n))
        assert returns[row, 0].item() == pytest.approx(rollout.scores[row].item() - beta * kl, abs=1e-5)
        assert rewards.per_token[row, n:].abs().sum() == 0


def test_score_lands_on_the_last_real_token(rollout) -> None:
    """Field fault 4: not on the token after it, and not on the last column."""
    with_score = shape_rewards(rollout, 0.3).per_token
    without = shape_rewards(dataclasses.replace(rollout, scores=torch.zeros(8)), 0.3).per_token
    places = ((with_score - without).abs() > 1e-6).nonzero().tolist()
    assert places == [[0, 0], [1, 2], [2, 5], [3, 1], [4, 5], [5, 3], [6, 0], [7, 4]]


def test_missing_end_replaces_the_score(rollout) -> None:
    """Rows 2 and 6 did not end themselves; one of them is full-length, and so is row 4, which did."""
    rewards = shape_rewards(rollout, 0.3, missing_eos_penalty=-1.0)
    expected = rollout.scores.clone()
    expected[[2, 6]] = -1.0
    torch.testing.assert_close(rewards.scores, expected)
    torch.testing.assert_close(shape_rewards(rollout, 0.3).scores, rollout.scores)


def test_poison_beyond_the_reply_changes_nothing(rollout) -> None:
    mask = rollout.mask
    dirty = dataclasses.replace(
        rollout,
        old_logprobs=rollout.old_logprobs.masked_fill(~mask, float("nan")),
        reference_logprobs=rollout.reference_logprobs.masked_fill(~mask, 1e9),
    )
    clean = shape_rewards(rollout, 0.3)
    found = shape_rewards(dirty, 0.3)
    torch.testing.assert_close(found.per_token, clean.per_token, rtol=0.0, atol=0.0)
    torch.testing.assert_close(found.kl, clean.kl, rtol=0.0, atol=0.0)
