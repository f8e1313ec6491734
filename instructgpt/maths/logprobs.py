"""Log-probability of given tokens, without ever holding a batch's full-vocabulary logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits held at one time when `chunk_tokens` is not given: 64 MiB of float32."""


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def token_logprobs(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> Tensor:
    """log softmax(hidden @ unembedding^T / temperature) at `targets`, in nats: (n,) float32.

    `hidden` is (n, D), `unembedding` (V, D), `targets` (n,) int64. Differentiable in `hidden` and
    `unembedding`. Forward and backward work through `chunk_tokens` rows at a time, so n x V numbers are never
    stored (field fault 31); rows that fit one chunk keep their probabilities for the backward pass instead of
    computing them again. float64 input gives float64 output.
    """
    return token_logprobs_and_entropy(hidden, unembedding, targets, temperature, chunk_tokens)[0]


def token_logprobs_and_entropy(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, with each distribution's entropy (n,) in nats; the entropy carries no gradient."""
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_ELEMENTS // unembedding.shape[0])
    run: Callable[..., tuple[Tensor, Tensor]] = _TokenLogprobs.apply
    logprobs, entropy = run(hidden, unembedding, targets, temperature, chunk_tokens)
    return logprobs, entropy


def _wide(x: Tensor) -> Tensor:
    """At least float32: a softmax over a vocabulary in half precision is off by tenths of a nat."""
    return x if x.dtype == torch.float64 else x.float()


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (n, k), weight (m, k) -> rows @ weight^T (n, m), through oneDNN for float32 on a CPU.

    For the reason given in `model.linear`. One thread, milliseconds, MKL : oneDNN: (2000, 128) by 1,024 words
    5.7 : 2.4, (256, 576) by 49,152 195 : 91; gradients by hidden 5.8 : 2.4 and 153 : 81, by
    unembedding 6.1 : 3.3 and 195 : 122. The operator has no derivative: for use inside `_TokenLogprobs` only.
    """
    suits = (
        _ONEDNN
        and rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and rows.numel() > 0
    )
    if not suits:
        return rows @ weight.T
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return result


class _TokenLogprobs(torch.autograd.Function):
    """The derivative of a log-probability by its logits is (one-hot - softmax) / temperature."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, unembedding: Tensor, targets: Tensor, temperature: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        n = hidden.shape[0]
        logprobs = torch.empty(n, dtype=_wide(hidden[:0]).dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        kept = None
        for start in range(0, n, chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            logits = _wide(_product(hidden[rows], unembedding))  # (chunk, V)
            if temperature != 1.0:
                logits = logits / temperature
            target_logits = logits.gather(1, targets[rows, None]).squeeze(1)
            normalizer = torch.logsumexp(logits, dim=1)
            logprobs[rows] = target_logits - normalizer
            probabilities = (logits - normalizer[:, None]).exp_()
            entropy[rows] = normalizer - (probabilities * logits).sum(1)
            if n <= chunk_tokens:
                kept = probabilities
        if kept is None:
            ctx.save_for_backward(hidden, unembedding, targets)
        else:
            ctx.save_for_backward(hidden, unembedding, targets, kept)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        # The backward pass runs outside the caller's autocast, but must compute the products the same way.
        kind = hidden.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kind, dtype, enabled = ctx.autocast
        with torch.autocast(kind, dtype, enabled=enabled):
            return _TokenLogprobs.gradients(ctx, *grads)

    @staticmethod
    def gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by (hidden, unembedding), None for the other arguments of `forward`."""
        hidden, unembedding, targets, *kept = ctx.saved_tensors
        grad = grads[0]
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_unembedding = torch.zeros_like(_wide(unembedding)) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], ctx.chunk_tokens):
            rows = slice(start, start + ctx.chunk_tokens)
            if kept:
                probabilities = kept[0]
            else:
                probabilities = torch.softmax(
                    _wide(_product(hidden[rows], unembedding)) / ctx.temperature, dim=1
                )
            scale = grad[rows] / ctx.temperature
            grad_logits = probabilities * -scale[:, None]  # (chunk, V)
            grad_logits.scatter_add_(1, targets[rows, None], scale[:, None])
            grad_logits = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = _product(grad_logits, unembedding.T)
            if grad_unembedding is not None:
                # (hidden^T gradient)^T: the faster way round, as in `model.linear`.
                grad_unembedding += _product(hidden[rows].T, grad_logits.T).T
        if grad_unembedding is not None:
            grad_unembedding = grad_unembedding.to(unembedding.dtype)
        return grad_hidden, grad_unembedding, None, None, None
