"""preference.py: DPO by hand, its gradient in closed form, and against a loop over pairs."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from instructgpt.maths.preference import dpo_loss, implicit_rewards


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Nine replies to three prompts, of 4, 3 and 2; ties in the first two."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (-20 * torch.rand(2, 9, dtype=torch.float64, generator=generator)).unbind()
    return ours, theirs, torch.tensor([2, 1, 2, 3, 1, 3, 1, 2, 1]), [4, 3, 2]


def test_by_hand() -> None:
    # better reply: 0.5 nats above the reference; worse: 1 nat below; beta 2: h = 2 * (0.5 - -1) = 3
    ours, theirs = torch.tensor([-3.5, -7.0]), torch.tensor([-4.0, -6.0])
    assert implicit_rewards(ours, theirs, 2.0).tolist() == [1.0, -2.0]
    loss, pairs = dpo_loss(ours, theirs, torch.tensor([1, 2]), [2], 2.0)
    assert pairs == 1
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)), abs=1e-6)


def test_at_the_reference_the_loss_is_log_2_and_the_gradient_pushes_the_better_reply_up() -> None:
    """Section 4 of the paper: each pair's weight is beta * sigmoid(0) = beta / 2."""
    theirs = torch.tensor([-4.0, -6.0, -1.0], dtype=torch.float64)
    ours = theirs.clone().requires_grad_()
    loss, _ = dpo_loss(ours, theirs, torch.tensor([2, 1, 3]), [3], 0.3)
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    # three pairs of weight 0.15 / 3: the best reply is better twice, the worst one worse twice
    assert ours.grad.tolist() == pytest.approx([0.0, -0.1, 0.1])


def test_the_gradient_is_the_closed_form() -> None:
    """-beta * sigmoid(-h) by the better reply and the opposite by the worse one, for one pair."""
    for ours, theirs, beta in (((-3.0, -9.0), (-4.0, -2.0), 0.1), ((-8.0, -1.0), (-5.0, -5.0), 0.7)):
        logprobs = torch.tensor(ours, dtype=torch.float64, requires_grad=True)
        loss, _ = dpo_loss(
            logprobs, torch.tensor(theirs, dtype=torch.float64), torch.tensor([1, 2]), [2], beta
        )
        loss.backward()
        h = beta * ((ours[0] - theirs[0]) - (ours[1] - theirs[1]))
        weight = beta / (1 + math.exp(h))
        assert logprobs.grad.tolist() == pytest.approx([-weight, weight])


def test_k_replies_are_a_loop_over_pairs() -> None:
    """Each prompt's mean over its untied pairs, then the mean over prompts."""
    ours, theirs, ranks, counts = _case()
    expected, first, pairs = [], 0, 0
    for count in counts:
        losses = [
            -logsigmoid(0.4 * ((ours[i] - theirs[i]) - (ours[j] - theirs[j])))
            for i in range(first, first + count)
            for j in range(first, first + count)
            if ranks[i] < ranks[j]
        ]
        expected.append(torch.stack(losses).mean())
        pairs += len(losses)
        first += count
    loss, found = dpo_loss(ours, theirs, ranks, counts, 0.4)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert found == pairs == 5 + 2 + 1


def test_a_constant_for_a_prompt_changes_nothing() -> None:
    """Eq. 5: the implicit reward is known up to a constant for each prompt, which cancels."""
    ours, theirs, ranks, counts = _case()
    shift = torch.tensor([3.0] * 4 + [-5.0] * 3 + [0.5] * 2, dtype=torch.float64)
    plain, _ = dpo_loss(ours, theirs, ranks, counts, 0.4)
    shifted, _ = dpo_loss(ours + shift, theirs, ranks, counts, 0.4)
    torch.testing.assert_close(plain, shifted)


def test_the_bradley_terry_optimum_is_stationary() -> None:
    """Where pi = pi_ref * exp(r / beta) / Z, the expected gradient over Bradley-Terry labels of r is 0."""
    generator = torch.Generator().manual_seed(1)
    theirs = torch.log_softmax(torch.randn(5, dtype=torch.float64, generator=generator), 0)
    rewards, beta = torch.randn(5, dtype=torch.float64, generator=generator), 0.3
    ours = torch.log_softmax(theirs + rewards / beta, 0).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        for j in range(i):
            chance = torch.sigmoid(rewards[i] - rewards[j])  # that i is labelled better
            for rank, weight in (([1, 2], chance), ([2, 1], 1 - chance)):
                pick = torch.tensor([i, j])
                loss, _ = dpo_loss(ours[pick], theirs[pick], torch.tensor(rank), [2], beta)
                total = total + weight * loss
    total.backward()
    assert ours.grad.abs().max() < 1e-12


def test_gradcheck() -> None:
    ours, theirs, ranks, counts = _case()
    ours.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dpo_loss(x, theirs, ranks, counts, 0.1)[0], (ours,))


def test_all_ties_and_micro_batches() -> None:
    ours, theirs, ranks, counts = _case()
    loss, pairs = dpo_loss(ours[:2], theirs[:2], torch.tensor([1, 1]), [2], 0.1)
    assert (loss.item(), pairs) == (0.0, 0)
    whole, _ = dpo_loss(ours, theirs, ranks, counts, 0.1)
    parts = [
        dpo_loss(ours[s], theirs[s], ranks[s], c, 0.1, prompts=3)[0]
        for s, c in ((slice(0, 4), [4]), (slice(4, 9), [3, 2]))
    ]
    torch.testing.assert_close(sum(parts), whole)
