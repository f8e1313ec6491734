"""Divergence between policy and reference, and the controller of its price. All in nats."""

import math

import torch
from torch import Tensor

LOG_RATIO_BOUND = 10.0
"""Beyond this many nats `bounded_exp` is a straight line; e^10 and its slope still fit float16."""


def bounded_exp(x: Tensor) -> Tensor:
    """e^x up to `LOG_RATIO_BOUND`, beyond it the tangent there: finite, increasing, with a gradient of the
    right sign.

    Clamping after exp gives 0 * inf = NaN in the backward pass (field fault 14), clamping before it gives no
    gradient where it is needed most.
    """
    return torch.exp(x.clamp(max=LOG_RATIO_BOUND)) * (1 + (x - LOG_RATIO_BOUND).clamp(min=0))


def k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log pi - log pi_ref of sampled tokens: unbiased for KL(pi, pi_ref), may be negative for one sample."""
    return logprobs - reference_logprobs


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """pi_ref / pi - 1 - log(pi_ref / pi) of sampled tokens: unbiased, never negative, of smaller variance
    than k1.

    Computed in float32 at least. Log it, do not train on it: its gradient is not that of the KL (field fault
    13).
    """
    log_ratio = reference_logprobs - logprobs
    log_ratio = log_ratio if log_ratio.dtype == torch.float64 else log_ratio.float()
    return bounded_exp(log_ratio) - 1 - log_ratio


def categorical_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(softmax(logits), softmax(reference_logits)) over the last axis, exactly."""
    logprobs = torch.log_softmax(logits, dim=-1)
    return (logprobs.exp() * (logprobs - torch.log_softmax(reference_logits, dim=-1))).sum(-1)


def adapt_coefficient(
    coefficient: float, kl: float, target: float, episodes: int, horizon: float = 10_000.0
) -> float:
    """KL price for the next iteration: coefficient * (1 + error * episodes / horizon).

    `error` = kl / target - 1, bounded to +-0.2; `kl` and `target` in nats per reply. A proportional
    controller of the logarithm of the price ([L], train_policy.py; arXiv:1909.08593, section 2.2). A `kl`
    that is not a number changes nothing.
    """
    if not math.isfinite(kl):
        return coefficient
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon)
