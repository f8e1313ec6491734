"""gae.py against slow double loops, its two closed forms, and poison in masked slots."""

import pytest
import torch

from instructgpt.maths.gae import gae


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    rewards = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    lengths = torch.tensor([6, 1, 4, 0])  # full length, one token, ragged, none
    return values, rewards, torch.arange(6) < lengths[:, None]


def slow_gae(values: list[float], rewards: list[float], gamma: float, lam: float) -> list[float]:
    """Definition: A_t = sum over l of (gamma lam)^l delta_{t+l}, in one reply without masks."""
    n = len(values)
    ahead = [*values, 0.0]
    deltas = [rewards[t] + gamma * ahead[t + 1] - ahead[t] for t in range(n)]
    return [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, n)) for t in range(n)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_equals_the_definition(gamma: float, lam: float) -> None:
    values, rewards, mask = _case()
    advantages, returns = gae(values, rewards, mask, gamma, lam)
    for row in range(4):
        n = int(mask[row].sum())
        expected = slow_gae(values[row, :n].tolist(), rewards[row, :n].tolist(), gamma, lam)
        assert advantages[row, :n].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[row, :n].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[row, :n].tolist(), strict=True)], abs=1e-12
        )
        assert advantages[row, n:].abs().sum() == 0 and returns[row, n:].abs().sum() == 0


def test_invariant_3_lambda_one_is_monte_carlo() -> None:
    """Invariant 3: with lambda 1 the return is the discounted sum of rewards, whatever V says."""
    values, rewards, mask = _case()
    _, returns = gae(values, rewards, mask, 0.9, 1.0)
    for row in range(4):
        n = int(mask[row].sum())
        for t in range(n):
            expected = sum(0.9 ** (u - t) * rewards[row, u].item() for u in range(t, n))
            assert returns[row, t].item() == pytest.approx(expected, abs=1e-12)


def test_invariant_3_lambda_zero_is_the_td_error() -> None:
    """Invariant 3: with lambda 0 the advantage is r_t + gamma V_{t+1} - V_t, and V after the end is 0."""
    values, rewards, mask = _case()
    advantages, _ = gae(values, rewards, mask, 0.9, 0.0)
    assert advantages[0, 2].item() == pytest.approx(
        (rewards[0, 2] + 0.9 * values[0, 3] - values[0, 2]).item(), abs=1e-12
    )
    assert advantages[2, 3].item() == pytest.approx((rewards[2, 3] - values[2, 3]).item(), abs=1e-12)
    assert advantages[1, 0].item() == pytest.approx((rewards[1, 0] - values[1, 0]).item(), abs=1e-12)


@pytest.mark.parametrize("poison", [1e9, float("nan"), float("inf")])
def test_poison_in_masked_slots_changes_nothing(poison: float) -> None:
    """Field fault 15: a mask applied after the recursion lets padding leak into the last tokens."""
    values, rewards, mask = _case()
    clean = gae(values, rewards, mask, 1.0, 0.95)
    dirty = gae(values.masked_fill(~mask, poison), rewards.masked_fill(~mask, poison), mask, 1.0, 0.95)
    torch.testing.assert_close(dirty, clean, rtol=0.0, atol=0.0)


def test_uncounted_tokens_inside_a_reply_are_stepped_over() -> None:
    values, rewards, _ = _case()
    holes = torch.tensor([[True, False, True, True, False, True]])
    advantages, _ = gae(values[:1], rewards[:1], holes, 0.9, 0.8)
    expected = slow_gae(values[0][holes[0]].tolist(), rewards[0][holes[0]].tolist(), 0.9, 0.8)
    assert advantages[0][holes[0]].tolist() == pytest.approx(expected, abs=1e-12)


def test_number_of_advantages_is_number_of_actions() -> None:
    """Field fault 5: one advantage for each action token, none beside them."""
    values, rewards, mask = _case()
    advantages, _ = gae(values, rewards, mask, 1.0, 0.95)
    assert int((advantages != 0).sum()) == int(mask.sum())
