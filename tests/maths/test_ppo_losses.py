"""ppo.py by hand, by gradcheck, under poison, and cut into micro-batches (reviewer's invariants 1 and 4)."""

import math

import pytest
import torch

from instructgpt.maths.ppo import explained_variance, policy_loss, value_loss


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(3, 5, dtype=torch.float64, generator=generator) * 3
    new = old + 0.4 * torch.randn(3, 5, dtype=torch.float64, generator=generator)
    advantages = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    return new, old, advantages, torch.arange(5) < torch.tensor([5, 1, 3])[:, None]


def test_policy_loss_by_hand() -> None:
    # ratios 1.5, 1.5, 0.5, 0.5 with A = 1, -1, 1, -1 and clip 0.2:
    #   max(-1.5, -1.2) = -1.2 clipped; max(1.5, 1.2) = 1.5; max(-0.5, -0.8) = -0.5; max(0.5, 0.8) = 0.8
    # clipped sum 0.6, over 4 tokens 0.15; half are clipped
    new = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    mask = torch.ones(4, dtype=torch.bool)
    loss, stats = policy_loss(new, torch.zeros(4), advantages, mask, 0.2, 4)
    assert loss.item() == pytest.approx(0.15, abs=1e-6)
    assert stats["clip_fraction"].item() == 0.5
    assert stats["ratio_mean"].item() == pytest.approx(1.0, abs=1e-6)
    assert stats["ratio_max"].item() == pytest.approx(1.5, abs=1e-6)
    # 0.5 * mean((ln 1.5)^2, (ln 0.5)^2)
    assert stats["approx_kl"].item() == pytest.approx(
        0.25 * (math.log(1.5) ** 2 + math.log(0.5) ** 2), abs=1e-6
    )


def test_invariant_1_equal_logprobs_give_ratio_one() -> None:
    """Invariant 1, maths part: ratio 1, no KL, nothing clipped, loss minus the mean advantage."""
    new, _, advantages, mask = _case()
    loss, stats = policy_loss(new, new, advantages, mask, 0.2, 9)
    assert loss.item() == pytest.approx(-advantages[mask].mean().item(), abs=1e-12)
    assert stats["approx_kl"].item() == 0.0 and stats["clip_fraction"].item() == 0.0
    assert stats["ratio_mean"].item() == pytest.approx(1.0) and stats["ratio_max"].item() == 1.0


def test_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    new, _, advantages, mask = _case()
    logprobs = new.clone().requires_grad_()
    policy_loss(logprobs, new, advantages, mask, 0.2, 9)[0].backward()
    expected = torch.where(mask, -advantages / 9, 0.0)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-12, atol=1e-12)


def test_gradchecks() -> None:
    new, old, advantages, mask = _case()
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, mask, 0.2, 9)[0], (new,))
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, advantages, mask, 0.2, 9)[0], (new,))


@pytest.mark.parametrize("poison", [1e9, float("nan")])
def test_poison_in_masked_slots_changes_nothing(poison: float) -> None:
    new, old, advantages, mask = _case()
    for loss_of in (policy_loss, value_loss):
        results = []
        for fill in (0.0, poison):
            logprobs = new.masked_fill(~mask, fill).requires_grad_()
            loss, stats = loss_of(
                logprobs, old.masked_fill(~mask, -fill), advantages.masked_fill(~mask, fill), mask, 0.2, 9
            )
            loss.backward()
            results.append((loss.detach(), logprobs.grad, stats))
        torch.testing.assert_close(results[1], results[0], rtol=0.0, atol=0.0)


def test_invariant_4_micro_batches_add_up_whatever_their_lengths() -> None:
    """Invariant 4, field fault 16: rows of 5, 1 and 3 tokens, whole or one by one, padded or packed."""
    new, old, advantages, mask = _case()
    for loss_of in (policy_loss, value_loss):
        whole, stats = loss_of(new, old, advantages, mask, 0.2, 9)
        parts = [
            loss_of(new[i : i + 1], old[i : i + 1], advantages[i : i + 1], mask[i : i + 1], 0.2, 9)
            for i in range(3)
        ]
        torch.testing.assert_close(sum(part[0] for part in parts), whole, rtol=1e-12, atol=1e-12)
        for name in set(stats) - {"ratio_max"}:
            torch.testing.assert_close(sum(p[1][name] for p in parts), stats[name], rtol=1e-12, atol=1e-12)
        packed, _ = loss_of(new[mask], old[mask], advantages[mask], torch.ones(9, dtype=torch.bool), 0.2, 9)
        torch.testing.assert_close(packed, whole, rtol=1e-12, atol=1e-12)


def test_value_loss_by_hand() -> None:
    # old 0, clip 0.2. V 1, G 2: plain 1, clipped V 0.2 -> 3.24 is larger. V -0.1, G 1: 1.21, unclipped.
    # 0.5 * (3.24 + 1.21) / 2
    values, old = torch.tensor([1.0, -0.1]), torch.zeros(2)
    loss, stats = value_loss(values, old, torch.tensor([2.0, 1.0]), torch.ones(2, dtype=torch.bool), 0.2, 2)
    assert loss.item() == pytest.approx(1.1125, abs=1e-6)
    assert stats["value_clip_fraction"].item() == 0.5
    assert stats["value_error"].item() == pytest.approx((1.0 + 1.21) / 2, abs=1e-6)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("difference", [-300.0, 300.0])
def test_extreme_ratios_stay_finite(advantage: float, difference: float) -> None:
    """Field fault 14: no infinity, no NaN, in value or gradient."""
    logprobs = torch.tensor([difference], requires_grad=True)
    mask = torch.ones(1, dtype=torch.bool)
    loss, _ = policy_loss(logprobs, torch.zeros(1), torch.tensor([advantage]), mask, 0.2, 1)
    loss.backward()
    assert math.isfinite(loss.item())
    assert logprobs.grad is not None and math.isfinite(logprobs.grad.item())


def test_explained_variance_by_hand() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, 99.0])
    mask = torch.tensor([True, True, True, False])
    assert explained_variance(returns, returns, mask).item() == 1.0
    assert explained_variance(torch.full((4,), 7.0), returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    # residuals 0, 0, 1: variance 2/9, of 2/3
    assert explained_variance(torch.tensor([1.0, 2.0, 2.0, 0.0]), returns, mask).item() == pytest.approx(
        2 / 3
    )
