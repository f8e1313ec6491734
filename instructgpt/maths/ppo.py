"""The clipped losses of PPO (arXiv:1707.06347, eq. 7 and 9) with the value clip of [L].

Every loss is sum / `count`, where `count` is the number of counted tokens of the whole minibatch: the losses
and the statistics of its micro-batches then add up to the minibatch's, however it was cut (field fault 16).
"""

import torch
from torch import Tensor

from instructgpt.maths.kl import bounded_exp
from instructgpt.maths.masked import masked_sum, masked_var


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float, count: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate: sum over counted tokens of max(-A ratio, -A clip(ratio, 1 +- clip)), over `count`.

    All tensors have one shape, (B, R) or (n,). Statistics, without gradient: `approx_kl` = mean of 0.5 (log
    ratio)^2 in nats [L], `clip_fraction` = share of tokens where the clipped side is the larger loss,
    `ratio_mean` (these add up over micro-batches) and `ratio_max` (take the maximum).
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    weight = torch.where(mask, advantages, torch.zeros_like(advantages))
    ratio = bounded_exp(log_ratio)
    plain = -weight * ratio
    clipped = -weight * ratio.clamp(1 - clip, 1 + clip)
    loss = masked_sum(torch.maximum(plain, clipped), mask) / count
    with torch.no_grad():
        stats = {
            "approx_kl": 0.5 * (log_ratio**2).sum() / count,
            "clip_fraction": (mask & (clipped > plain)).sum() / count,
            "ratio_mean": masked_sum(ratio, mask) / count,
            "ratio_max": torch.where(mask, ratio, torch.zeros_like(ratio)).max(),
        }
    return loss, stats


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float, count: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """0.5 * sum over counted tokens of max((V - G)^2, (clipped V - G)^2), over `count`; in squared reward
    units.

    The clipped V moves at most `clip` from `old_values` [L]. Statistics: `value_clip_fraction`, `value_error`
    = mean squared error before clipping; both add up over micro-batches.
    """
    zero = torch.zeros_like(values)
    values, old_values, returns = (torch.where(mask, x, zero) for x in (values, old_values, returns))
    clipped_values = old_values + (values - old_values).clamp(-clip, clip)
    plain = (values - returns) ** 2
    clipped = (clipped_values - returns) ** 2
    loss = 0.5 * torch.maximum(plain, clipped).sum() / count
    with torch.no_grad():
        stats = {
            "value_clip_fraction": (mask & (clipped > plain)).sum() / count,
            "value_error": plain.sum() / count,
        }
    return loss, stats


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - var(G - V) / var(G): 1 when V predicts the return, 0 when it is no better than a constant."""
    return 1 - masked_var(returns - values, mask) / masked_var(returns, mask).clamp(min=1e-12)
