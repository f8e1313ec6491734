"""masked.py against hand arithmetic, and against garbage where the mask is False."""

import math

import pytest
import torch

from instructgpt.maths.masked import masked_mean, masked_sum, masked_var, whiten

X = torch.tensor([[1.0, 2.0, 3.0], [6.0, math.nan, 1e30]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_sum_mean_variance_by_hand() -> None:
    # counted: 1 2 3 6 -> sum 12, mean 3, biased variance (4 + 1 + 0 + 9) / 4 = 3.5
    assert masked_sum(X, MASK).item() == 12.0
    assert masked_mean(X, MASK).item() == 3.0
    assert masked_var(X, MASK).item() == 3.5


def test_whitened_by_hand() -> None:
    # (x - 3) / sqrt(3.5): -2, -1, 0, 3 over 1.8708287
    expected = torch.tensor([[-1.0690450, -0.5345225, 0.0], [1.6035675, 0.0, 0.0]])
    torch.testing.assert_close(whiten(X, MASK), expected)
    shifted = torch.where(MASK, expected + 3.0, 0.0)
    torch.testing.assert_close(whiten(X, MASK, shift_mean=False), shifted)


def test_whitened_batch_has_mean_zero_and_variance_one() -> None:
    x = torch.randn(7, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 5 + 2
    mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(2)) < 0.6
    white = whiten(x, mask)[mask]
    assert white.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert white.var(unbiased=False).item() == pytest.approx(1.0, abs=1e-8)


def test_whitening_is_blind_to_scale_and_shift() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(4, 5, dtype=torch.bool)
    torch.testing.assert_close(whiten(3 * x + 7, mask), whiten(x, mask), rtol=1e-6, atol=1e-7)


def test_nothing_counts() -> None:
    none = torch.zeros_like(MASK)
    assert masked_sum(X, none).item() == 0.0
    assert masked_mean(X, none).item() == 0.0
    assert masked_var(X, none).item() == 0.0
    assert whiten(X, none).abs().sum().item() == 0.0


def test_one_value_whitens_to_zero() -> None:
    one = torch.tensor([True, False])
    assert whiten(torch.tensor([5.0, 9.0]), one).tolist() == [0.0, 0.0]


def test_garbage_in_masked_slots_gives_no_gradient() -> None:
    x = X.clone().requires_grad_()
    masked_mean(x, MASK).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]
