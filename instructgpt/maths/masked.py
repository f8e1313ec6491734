"""Sums, means and whitening over the slots that count."""

import torch
from torch import Tensor

WHITEN_EPS = 1e-8
"""Added to the variance before the square root ([N], function `masked_whiten`)."""


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of `x` where `mask` is True. Slots where it is False are never read, so they may hold NaN."""
    return torch.where(mask, x, torch.zeros_like(x)).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is True; 0 when nothing counts."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Biased variance (divided by the count, not the count less one) of `x` where `mask` is True."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the counted slots to variance 1, and to mean 0 if `shift_mean`; slots that do not count become 0.

    `shift_mean=False` keeps the mean that `x` had, as [L] (openai/lm-human-preferences) does for rewards. It
    is the whole batch that must come in here: whitening piece by piece makes the result depend on how it was
    cut.
    """
    mean = masked_mean(x, mask)
    scaled = (x - mean) * torch.rsqrt(masked_var(x, mask) + WHITEN_EPS)
    if not shift_mean:
        scaled = scaled + mean
    return torch.where(mask, scaled, torch.zeros_like(scaled))
