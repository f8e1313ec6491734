"""Log-probability of given tokens, without ever holding a batch's full-vocabulary logits."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits held at one time when `chunk_tokens` is not given: 64 MiB of float32."""

KEPT_ELEMENTS = 1 << 27
"""In half precision: probabilities kept for the backward pass, 256 MiB; of more the logits are made twice."""

SLICE_ELEMENTS = 1 << 20
"""Logits whose softmax is taken at one time: 4 MiB of float32, which stay in a processor's cache."""

WORDS = 4096
"""Rows of a half-precision unembedding whose gradient is made at one time."""

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def token_logprobs(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    rounded: Tensor | None = None,
) -> Tensor:
    """log softmax(hidden @ unembedding^T / temperature) at `targets`, in nats: (n,) float32.

    `hidden` is (n, D), `unembedding` (V, D), `targets` (n,) int64. Differentiable in `hidden` and
    `unembedding`. Forward and backward work through `chunk_tokens` rows at a time, so n x V numbers are never
    stored (field fault 31); rows that fit one chunk keep their probabilities for the backward pass instead of
    computing them again. float64 input gives float64 output.

    Under autocast, or where `hidden` is in half precision, the products are made in that precision and the
    rest in float32. `rounded` is the unembedding in that precision, for who has it at hand; the gradient goes
    to `unembedding`, in its own precision.
    """
    return _run(hidden, unembedding, targets, temperature, chunk_tokens, rounded, False)[0]


def token_logprobs_and_entropy(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    rounded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `token_logprobs`, with each distribution's entropy (n,) in nats; the entropy carries no gradient."""
    return _run(hidden, unembedding, targets, temperature, chunk_tokens, rounded, True)


def _run(
    hidden: Tensor,
    unembedding: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_tokens: int | None,
    rounded: Tensor | None,
    with_entropy: bool,
) -> tuple[Tensor, Tensor]:
    if chunk_tokens is None:
        chunk_tokens = max(1, CHUNK_ELEMENTS // unembedding.shape[0])
    hidden, weight = operands(hidden, unembedding, rounded)
    run: Callable[..., tuple[Tensor, Tensor]] = _TokenLogprobs.apply
    learns = torch.is_grad_enabled()  # a Function can't tell
    settings = temperature, chunk_tokens, with_entropy, learns
    with torch.autocast(hidden.device.type, enabled=False):
        logprobs, entropy = run(hidden, unembedding, weight, targets, *settings)
    return logprobs, entropy


def operands(hidden: Tensor, unembedding: Tensor, rounded: Tensor | None) -> tuple[Tensor, Tensor]:
    """`hidden` and the matrix that it is multiplied by, both in the precision of the product.

    That is autocast's where it is on, else that of `hidden`. The matrix carries no gradient.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype == torch.float32:
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    if rounded is None or rounded.dtype != hidden.dtype:
        rounded = unembedding.detach().to(hidden.dtype)
    return hidden, rounded


def wide(x: Tensor) -> Tensor:
    """At least float32: a softmax over a vocabulary in half precision is off by tenths of a nat."""
    return x if x.dtype == torch.float64 else x.float()


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """rows (n, k), weight (m, k) -> rows @ weight^T (n, m), through oneDNN for float32 on a CPU.

    For the reason given in `model.linear`. One thread, milliseconds, MKL : oneDNN: (2000, 128) by 1,024 words
    5.7 : 2.4, (256, 576) by 49,152 195 : 91; gradients by hidden 5.8 : 2.4 and 153 : 81, by
    unembedding 6.1 : 3.3 and 195 : 122. The operator has no derivative: for use inside a Function only.
    """
    suits = (
        _ONEDNN
        and rows.dtype == weight.dtype == torch.float32
        and rows.device.type == weight.device.type == "cpu"
        and rows.numel() > 0
    )
    if not suits:
        return rows @ weight.T
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return result


def slices(logits: Tensor) -> Iterator[slice]:
    """Cut the rows of (n, V) logits so that a slice in float32 stays in a processor's cache.

    A softmax passes over its numbers half a dozen times. Elsewhere than on a CPU: all in one.
    """
    n, vocabulary = logits.shape
    step = max(1, SLICE_ELEMENTS // vocabulary) if logits.device.type == "cpu" else n
    for start in range(0, n, max(1, step)):
        yield slice(start, min(n, start + step))


def add_weight_gradient(total: Tensor, hidden: Tensor, grad_logits: Tensor, first: bool) -> None:
    """Add to `total` (V, D) the gradient by the matrix that `hidden` (n, D) met, of `grad_logits` (n, V).

    Where it is the first it is put there: `total` may then hold anything.
    """
    if hidden.dtype == total.dtype:
        # (hidden^T gradient)^T: the faster way round, as in `model.linear`.
        change = product(hidden.T, grad_logits.T).T
        total.copy_(change) if first else total.add_(change)
        return
    # In half precision a part of the vocabulary at a time, which is made wider while it is in the cache: 403
    # against 318 GFLOP/s for 50,257 words, width 768, 900 tokens on one core (Zen 5).
    for start in range(0, total.shape[0], WORDS):
        words = slice(start, start + WORDS)
        change = grad_logits[:, words].T @ hidden
        total[words].copy_(change) if first else total[words].add_(change)


def hidden_gradient(grad_logits: Tensor, weight: Tensor) -> Tensor:
    """grad_logits (n, V), weight (V, D) -> (n, D)."""
    if grad_logits.dtype.itemsize == 2:
        return (weight.T @ grad_logits.T).T  # 379 against 340 GFLOP/s, as above
    return product(grad_logits, weight.T)


class _TokenLogprobs(torch.autograd.Function):
    """The derivative of a log-probability by its logits is (one-hot - softmax) / temperature."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        unembedding: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        chunk_tokens: int,
        with_entropy: bool,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        n = hidden.shape[0]
        half = hidden.dtype != wide(hidden[:0]).dtype
        logprobs = torch.empty(n, dtype=wide(hidden[:0]).dtype, device=hidden.device)
        entropy = torch.empty_like(logprobs)
        kept = []
        keep = learns and (n <= chunk_tokens or (half and n * weight.shape[0] <= KEPT_ELEMENTS))
        for start in range(0, n, chunk_tokens):
            logits = product(hidden[start : start + chunk_tokens], weight)  # (chunk, V)
            for part in slices(logits):
                rows = slice(start + part.start, start + part.stop)
                exact = wide(logits[part])
                if temperature != 1.0:
                    exact.div_(temperature)
                normalizer = torch.logsumexp(exact, dim=1)
                logprobs[rows] = exact.gather(1, targets[rows, None]).squeeze(1) - normalizer
                if with_entropy:
                    probabilities = (exact - normalizer[:, None]).exp_()
                    entropy[rows] = normalizer - (probabilities * exact).sum(1)
                    if keep:
                        logits[part] = probabilities
                elif keep:
                    exact.sub_(normalizer[:, None]).exp_()  # of the logits themselves, or of a wider copy
                    if half:
                        logits[part] = exact
            if keep:
                kept.append(logits)  # which are probabilities by now
        ctx.save_for_backward(hidden, weight, targets, *kept)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        ctx.dtype = unembedding.dtype
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, *kept = ctx.saved_tensors
        scale = grads[0] / ctx.temperature
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_unembedding = torch.zeros_like(wide(weight)) if ctx.needs_input_grad[1] else None
        for number, start in enumerate(range(0, hidden.shape[0], ctx.chunk_tokens)):
            chunk = slice(start, start + ctx.chunk_tokens)
            known = kept[number] if kept else product(hidden[chunk], weight)
            grad_logits = torch.empty_like(known) if kept else known  # (chunk, V)
            for part in slices(known):
                rows = slice(start + part.start, start + part.stop)
                exact = wide(known[part])
                probabilities = exact if kept else torch.softmax(exact / ctx.temperature, dim=1)
                change = probabilities * -scale[rows, None]
                grad_logits[part] = change.scatter_add_(1, targets[rows, None], scale[rows, None])
            if grad_hidden is not None:
                grad_hidden[chunk] = hidden_gradient(grad_logits, weight)
            if grad_unembedding is not None:
                add_weight_gradient(grad_unembedding, hidden[chunk], grad_logits, number == 0)
        if grad_unembedding is not None:
            grad_unembedding = grad_unembedding.to(ctx.dtype)
        return grad_hidden, grad_unembedding, None, None, None, None, None, None
