"""Next-token loss over a large vocabulary, its gradient made on the way forward.

Where all tokens have the same factor in the loss, its gradient is known as soon as the logits are: softmax -
one-hot. The logits are then made once, and nothing of their size is kept until the backward pass. Losses
whose factors follow from the log-probabilities themselves, as PPO's do, need `logprobs.token_logprobs`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from instructgpt.maths.logprobs import (
    CHUNK_ELEMENTS,
    add_weight_gradient,
    hidden_gradient,
    operands,
    product,
    slices,
    wide,
)


def cross_entropy(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    chunk_tokens: int | None = None,
    rounded: Tensor | None = None,
) -> Tensor:
    """The sum of -log softmax(hidden @ unembedding^T) at `targets`: nats, scalar, at least float32.

    `hidden` is (n, D), `unembedding` (V, D), `targets` (n,) int64; differentiable once in the first two.
    `chunk_tokens` rows of logits are held at a time. Precision and `rounded` are those of
    `logprobs.token_logprobs`: in half precision the logits of a chunk are stored in it, and the softmax is
    made of them in float32.
    """
    hidden, matrix = operands(hidden, unembedding, rounded)
    if chunk_tokens is None:
        elements = CHUNK_ELEMENTS * 4 // hidden.element_size()  # as many bytes in every precision
        chunk_tokens = max(1, elements // unembedding.shape[0])
    with torch.autocast(hidden.device.type, enabled=False):
        learns = torch.is_grad_enabled()  # a Function can't tell
        loss: Tensor = _CrossEntropy.apply(hidden, unembedding, matrix, targets, chunk_tokens, learns)
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        unembedding: Tensor,
        matrix: Tensor,
        targets: Tensor,
        chunk_tokens: int,
        learns: bool,
    ) -> Tensor:
        by_hidden, by_matrix = (learns and needed for needed in ctx.needs_input_grad[:2])
        total = torch.zeros((), dtype=wide(hidden[:0]).dtype, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if by_hidden else None
        fill = torch.empty_like if len(hidden) else torch.zeros_like
        grad_matrix = fill(unembedding, dtype=total.dtype) if by_matrix else None
        for start in range(0, hidden.shape[0], chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            logits = product(hidden[rows], matrix)  # (chunk, V)
            total += _softmax_gradient(logits, targets[rows], by_hidden or by_matrix)
            if grad_hidden is not None:
                grad_hidden[rows] = hidden_gradient(logits, matrix)
            if grad_matrix is not None:
                add_weight_gradient(grad_matrix, hidden[rows], logits, start == 0)
        ctx.save_for_backward(grad_hidden, grad_matrix)
        ctx.dtype = unembedding.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_matrix = ctx.saved_tensors
        if by_hidden is not None:
            by_hidden = (wide(by_hidden) * grads[0]).to(by_hidden.dtype)
        if by_matrix is not None:
            by_matrix = (by_matrix * grads[0]).to(ctx.dtype)
        return by_hidden, by_matrix, None, None, None, None


def _softmax_gradient(logits: Tensor, targets: Tensor, learns: bool) -> Tensor:
    """The sum of -log softmax(logits) at `targets`; where asked, turns `logits` (n, V) into its gradient."""
    total = torch.zeros((), dtype=wide(logits[:0]).dtype, device=logits.device)
    for part in slices(logits):
        exact, at = wide(logits[part]), targets[part, None]
        target_logits = exact.gather(1, at).squeeze(1)
        normalizer = torch.logsumexp(exact, dim=1)
        total += (normalizer - target_logits).sum()
        if not learns:
            continue
        exact.sub_(normalizer[:, None]).exp_()  # of the logits themselves, or of a wider copy
        exact.scatter_add_(1, at, exact.new_full(at.shape, -1.0))
        if exact.dtype != logits.dtype:
            logits[part] = exact
    return total
