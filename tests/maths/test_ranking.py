"""ranking.py against a loop over pairs and by hand: reviewer's invariants 5 and 6 (maths part)."""

import itertools
import math

import pytest
import torch

from instructgpt.maths.ranking import comparable_prompts, pair_loss, pairwise_accuracy, ranking_loss


def naive_prompt_loss(rewards: list[float], ranks: list[int]) -> float | None:
    losses = [
        math.log1p(math.exp(-(rewards[i] - rewards[j])))
        for i, j in itertools.permutations(range(len(rewards)), 2)
        if ranks[i] < ranks[j]
    ]
    return sum(losses) / len(losses) if losses else None


REWARDS = [0.3, -1.2, 2.0, 0.5, 1.0, -0.4, 0.1, 0.9, 3.0, -2.0]
RANKS = [2, 3, 1, 2, 1, 1, 2, 1, 3, 4]
COUNTS = [4, 2, 4]


def test_two_replies_by_hand() -> None:
    # sigmoid(ln 3) = 3/4, so the loss is ln(4/3)
    loss = pair_loss(torch.tensor([math.log(3.0), 0.0]), torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(math.log(4 / 3), abs=1e-6)


def test_equal_rewards_give_log_two() -> None:
    loss = pair_loss(torch.full((9,), 1.7), torch.arange(9))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_invariant_5_k_way_loss_is_the_mean_of_pairs() -> None:
    """Invariant 5, field fault 27: K-way loss == naive mean over all untied pairs, prompt by prompt."""
    rewards, ranks = torch.tensor(REWARDS, dtype=torch.float64), torch.tensor(RANKS)
    loss, pairs = ranking_loss(rewards, ranks, COUNTS)
    # prompt 1 has C(4,2) - 1 tie = 5 pairs, prompt 2 ties, prompt 3 has 6
    assert pairs == 11
    parts = [naive_prompt_loss(REWARDS[0:4], RANKS[0:4]), naive_prompt_loss(REWARDS[6:10], RANKS[6:10])]
    assert naive_prompt_loss(REWARDS[4:6], RANKS[4:6]) is None
    assert loss.item() == pytest.approx(sum(part for part in parts if part is not None) / 2, abs=1e-12)
    assert comparable_prompts(ranks, COUNTS) == 2


def test_invariant_6_a_constant_added_to_all_rewards_changes_nothing() -> None:
    """Invariant 6, maths part: the loss and its gradient see reward differences only."""
    ranks = torch.tensor(RANKS)
    results = []
    for constant in (0.0, 100.0):
        rewards = torch.tensor(REWARDS, dtype=torch.float64).add(constant).requires_grad_()
        loss, _ = ranking_loss(rewards, ranks, COUNTS)
        loss.backward()
        results.append((loss.detach(), rewards.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_order_of_replies_does_not_matter() -> None:
    rewards, ranks = torch.tensor(REWARDS[:4]), torch.tensor(RANKS[:4])
    turned = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(pair_loss(rewards[turned], ranks[turned]), pair_loss(rewards, ranks))


def test_micro_batches_add_up() -> None:
    """Field fault 16: with the batch's prompt count passed in, the parts sum to the whole."""
    rewards, ranks = torch.tensor(REWARDS), torch.tensor(RANKS)
    whole, _ = ranking_loss(rewards, ranks, COUNTS)
    first, _ = ranking_loss(rewards[:6], ranks[:6], COUNTS[:2], prompts=2)
    second, _ = ranking_loss(rewards[6:], ranks[6:], COUNTS[2:], prompts=2)
    torch.testing.assert_close(first + second, whole)


def test_all_ties() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    loss, pairs = ranking_loss(rewards, torch.tensor([1, 1, 1]), [3])
    loss.backward()
    assert (loss.item(), pairs) == (0.0, 0)
    assert rewards.grad is not None and rewards.grad.abs().sum().item() == 0.0
    assert pairwise_accuracy(rewards, torch.tensor([1, 1, 1]), [3]) == (0.5, 0)


def test_gradcheck() -> None:
    rewards = torch.tensor(REWARDS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: ranking_loss(r, torch.tensor(RANKS), COUNTS)[0], (rewards,))


def test_accuracy_by_hand() -> None:
    # pairs (better, worse): (3, 1) right, (3, 3) equal: a half, (1, 3) wrong -> 1.5 of 3
    accuracy, pairs = pairwise_accuracy(torch.tensor([3.0, 3.0, 1.0]), torch.tensor([2, 3, 1]), [3])
    # ranks 2,3,1: (r0 over r1) equal, (r2 over r0) wrong, (r2 over r1) wrong -> 0.5 of 3
    assert (accuracy, pairs) == (pytest.approx(0.5 / 3), 3)
    right, pairs = pairwise_accuracy(torch.tensor([3.0, 1.0, 0.0, 2.0]), torch.tensor([1, 2, 1, 2]), [2, 2])
    assert (right, pairs) == (0.5, 2)


def test_extreme_margins_stay_finite() -> None:
    rewards = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = pair_loss(rewards, torch.tensor([1, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert rewards.grad is not None and rewards.grad.tolist() == [-1.0, 1.0]
