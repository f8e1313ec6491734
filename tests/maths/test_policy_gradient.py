"""policy_gradient.py: by hand, by loops, under poison, and against each other where they must agree."""

import math

import pytest
import torch

from instructgpt.maths.policy_gradient import (
    group_normalised,
    grpo_loss,
    leave_one_out,
    reinforce_loss,
    reply_weights,
)
from instructgpt.maths.ppo import policy_loss

LENGTHS = torch.tensor([5, 1, 3])
MASK = torch.arange(5) < LENGTHS[:, None]


def _draws(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(number, 3, 5, dtype=torch.float64, generator=generator))


def test_leave_one_out_by_hand() -> None:
    # rewards 1, 2, 6: the others' means are 4, 3.5, 1.5
    found = leave_one_out(torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3)
    assert found.tolist() == pytest.approx([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])


def test_leave_one_out_is_a_loop() -> None:
    rewards = _draws(1)[0].view(-1)[:12]
    expected = []
    for i in range(12):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        expected.append(rewards[i] - sum(rewards[j] for j in group if j != i) / 3)
    torch.testing.assert_close(leave_one_out(rewards, 4), torch.stack(expected))
    torch.testing.assert_close(leave_one_out(rewards + 7, 4), leave_one_out(rewards, 4))


def test_rloo_of_two_replies_is_half_the_difference() -> None:
    """K = 2: advantages +-(R1 - R2); the loss of a pair is half of -(R1 - R2)(log p1 - log p2)."""
    advantages = leave_one_out(torch.tensor([3.0, 1.0]), 2)
    assert advantages.tolist() == [2.0, -2.0]
    tokens = torch.tensor([[-1.0, -0.5, 0.0], [-0.25, -2.0, -0.5]])  # log p1 = -1.5, log p2 = -2.75
    mask = torch.tensor([[True, True, False], [True, True, True]])
    loss = reinforce_loss(tokens, advantages[:, None].expand(2, 3), mask, 2)
    assert loss.item() == pytest.approx(-0.5 * (3.0 - 1.0) * (-1.5 - -2.75))


def test_group_normalised_by_hand() -> None:
    # 1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7; 5, 5, 5: nothing to tell apart
    found = group_normalised(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3)
    scale = math.sqrt(7) + 1e-4
    assert found.tolist() == pytest.approx([-2 / scale, -1 / scale, 3 / scale, 0.0, 0.0, 0.0])
    plain = group_normalised(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3, scale=False)
    assert plain.tolist() == pytest.approx([-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])


def test_group_normalised_has_mean_0_in_each_group_and_does_not_see_scale_or_shift() -> None:
    rewards = _draws(1)[0].view(-1)[:12]
    found = group_normalised(rewards, 4).view(-1, 4)
    torch.testing.assert_close(found.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.std(1), torch.ones(3, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(group_normalised(50 * rewards - 3, 4).view(-1, 4), found, atol=1e-3, rtol=0)


def test_the_two_baselines_differ_by_a_factor() -> None:
    """R - mean of the others = K / (K - 1) * (R - mean of all)."""
    rewards = _draws(1)[0].view(-1)[:12]
    torch.testing.assert_close(leave_one_out(rewards, 4), 4 / 3 * group_normalised(rewards, 4, scale=False))


def test_reinforce_loss_by_hand() -> None:
    # A 1, -2, 0.5 on log-probs -1, -0.5, -4; the last token does not count: -(1 * -1 + -2 * -0.5) / 2 = 0
    logprobs = torch.tensor([-1.0, -0.5, -4.0], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    loss = reinforce_loss(logprobs, advantages, torch.tensor([True, True, False]), 2)
    assert loss.item() == pytest.approx(0.0)
    loss.backward()
    assert logprobs.grad.tolist() == [-0.5, 1.0, 0.0]
    assert advantages.grad is None


def test_its_gradient_is_that_of_ppos_loss_at_ratio_one() -> None:
    """arXiv:2205.09123: A2C is PPO's first step. Away from ratio 1 the two differ."""
    old, advantages = (_draws(2)[i] for i in (0, 1))
    gradients = []
    for start in (old, old + 0.3):
        ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
        reinforce_loss(ours, advantages, MASK, 9).backward()
        policy_loss(theirs, old, advantages, MASK, 0.2, 9)[0].backward()
        gradients.append((ours.grad, theirs.grad))
    torch.testing.assert_close(*gradients[0])
    assert not torch.allclose(*gradients[1])


def test_grpo_by_hand() -> None:
    """Two replies of two and one tokens: mean over replies of means over tokens, clipped side, k3."""
    ratios = torch.tensor([1.5, 0.5, 1.0])
    reference = torch.log(ratios) + torch.tensor([math.log(2.0), 0.0, 0.0])  # pi_ref / pi = 2, 1, 1
    loss, stats = grpo_loss(
        torch.log(ratios), torch.zeros(3), reference, torch.tensor([1.0, 1.0, -3.0]),
        torch.tensor([0.75, 0.75, 1.5]), torch.ones(3, dtype=torch.bool), 0.2, 0.1, 3,
    )  # fmt: skip
    # tokens: -1.2 (clipped), -0.5 | 3; k3: 2 - 1 - ln 2, 0 | 0
    kl = ((1 - math.log(2)) / 2 + 0) / 2
    assert loss.item() == pytest.approx(((-1.2 - 0.5) / 2 + 3) / 2 + 0.1 * kl, abs=1e-6)
    assert stats["kl_loss"].item() == pytest.approx(kl, abs=1e-6)
    assert stats["clip_fraction"].item() == pytest.approx(1 / 3)
    assert stats["ratio_max"].item() == pytest.approx(1.5)


def test_reply_weights_make_a_mean_over_replies() -> None:
    assert reply_weights(torch.tensor([2, 1])).tolist() == [0.75, 1.5]  # 3 / (2 * 2), 3 / (2 * 1)
    values = _draws(1)[0]
    weights = reply_weights(LENGTHS)[:, None] * MASK
    by_reply = torch.stack([values[i, :n].mean() for i, n in enumerate(LENGTHS.tolist())]).mean()
    torch.testing.assert_close((weights * values).sum() / LENGTHS.sum(), by_reply)
    assert weights.sum().item() == pytest.approx(LENGTHS.sum().item())


def test_grpo_is_a_slow_loop() -> None:
    """Eq. 3 and 4 of arXiv:2402.03300, written out token by token."""
    new, old, reference = (0.3 * x - 1 for x in _draws(3))
    advantages = torch.tensor([1.2, -0.7, -0.5], dtype=torch.float64)
    objective = torch.zeros((), dtype=torch.float64)
    for i, n in enumerate(LENGTHS.tolist()):
        for t in range(n):
            ratio = torch.exp(new[i, t] - old[i, t])
            clipped = torch.clamp(ratio, 0.8, 1.2)
            inverse = torch.exp(reference[i, t] - new[i, t])
            kl = inverse - torch.log(inverse) - 1
            gained = torch.min(ratio * advantages[i], clipped * advantages[i])
            objective = objective + (gained - 0.04 * kl) / n / 3
    weights = reply_weights(LENGTHS)[:, None].expand(3, 5)
    found, _ = grpo_loss(new, old, reference, advantages[:, None].expand(3, 5), weights, MASK, 0.2, 0.04, 9)
    torch.testing.assert_close(found, -objective)


def test_k3_as_a_loss_pulls_by_the_other_kl() -> None:
    """On the policy's own tokens the expected gradient of k3 is that of KL(pi_ref, pi), over 5 tokens."""
    generator = torch.Generator().manual_seed(2)
    logits, reference = torch.randn(2, 5, dtype=torch.float64, generator=generator).unbind()
    reference = torch.log_softmax(reference, 0)
    ours = logits.clone().requires_grad_()
    logprobs = torch.log_softmax(ours, 0)
    chances = logprobs.detach().exp()  # E over tokens of the policy: one token of each kind, by its chance
    every = torch.ones(5, dtype=torch.bool)
    loss, _ = grpo_loss(
        logprobs, logprobs.detach(), reference, torch.zeros(5), 5 * chances, every, 0.2, 1.0, 5
    )
    loss.backward()
    other = logits.clone().requires_grad_()
    (reference.exp() * (reference - torch.log_softmax(other, 0))).sum().backward()
    torch.testing.assert_close(ours.grad, other.grad)


def test_poison_in_slots_that_do_not_count() -> None:
    new, old, reference, advantages = _draws(4)
    weights = reply_weights(LENGTHS)[:, None].expand(3, 5)
    results = []
    for junk in (0.0, float("nan")):
        held = [torch.where(MASK, x, junk) for x in (new, old, reference, advantages)]
        x = held[0].clone().requires_grad_()
        loss, _ = grpo_loss(x, held[1], held[2], held[3], weights, MASK, 0.2, 0.1, 9)
        plain = reinforce_loss(x, held[3], MASK, 9)
        (loss + plain).backward()
        results.append((loss.item(), plain.item(), x.grad))
    assert results[0][:2] == results[1][:2]
    torch.testing.assert_close(results[0][2], results[1][2])


def test_micro_batches_add_up_and_gradcheck() -> None:
    new, old, reference, advantages = (0.3 * x for x in _draws(4))
    weights = reply_weights(LENGTHS)[:, None].expand(3, 5)

    def losses(rows: slice, x: torch.Tensor) -> torch.Tensor:
        loss, _ = grpo_loss(
            x[rows], old[rows], reference[rows], advantages[rows], weights[rows], MASK[rows], 0.2, 0.1, 9
        )
        return loss + reinforce_loss(x[rows], advantages[rows], MASK[rows], 9)

    torch.testing.assert_close(losses(slice(0, 1), new) + losses(slice(1, 3), new), losses(slice(0, 3), new))
    assert torch.autograd.gradcheck(lambda x: losses(slice(0, 3), x), (new.requires_grad_(),))
