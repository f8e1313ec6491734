"""Rotary positions (arXiv:2104.09864) and their scalings to longer texts.

Legend: N tokens of the whole batch, H heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from instructgpt.model.config import ModelConfig, RopeScaling

Rotary = tuple[Tensor, Tensor]  # cosines and sines, (N, 1, d / 2) each


def rotary_table(
    positions: Tensor, lengths: Sequence[int], config: ModelConfig, dtype: torch.dtype
) -> Rotary:
    """Cosines and sines (N, 1, d / 2) of positions (N,), computed in float32.

    lengths: tokens per document, together N. Scaling of kind "dynamic" follows each document's own length up
    to its last token here, so that a row does not change with its neighbours. Tokens that lie in a cache
    keep the turn they had when they were new, as in transformers.
    """
    scale = 1.0
    if config.rope is not None and config.rope.kind == "dynamic":
        ends = torch.tensor(lengths, device=positions.device).cumsum(0) - 1
        repeats = torch.tensor(lengths, device=positions.device)
        total = torch.repeat_interleave(positions[ends] + 1, repeats, output_size=positions.shape[0])
        frequencies = _dynamic(total, config, config.rope.factor)  # (N, d / 2)
    else:
        frequencies = inverse_frequencies(config, positions.device)  # (d / 2,)
        scale = attention_scale(config.rope)
    angles = positions.float()[:, None] * frequencies  # (N, d / 2)
    cosine, sine = angles.cos(), angles.sin()
    if scale != 1.0:
        cosine, sine = cosine * scale, sine * scale
    return cosine.to(dtype)[:, None], sine.to(dtype)[:, None]


def inverse_frequencies(config: ModelConfig, device: torch.device | str = "cpu") -> Tensor:
    """Radians a position, (d / 2,) float32; of kind "dynamic" those within the context."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    plain = 1.0 / config.rope_theta ** (half / config.head_dim)
    rope = config.rope
    if rope is None or rope.kind == "dynamic":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    return _yarn(plain, config, rope) if rope.kind == "yarn" else _llama3(plain, rope)


def attention_scale(rope: RopeScaling | None) -> float:
    """What cosines and sines are multiplied by: YaRN's temperature, arXiv:2309.00071 eq. 22; else 1."""
    if rope is None or rope.kind != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor

    def temperature(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return temperature(rope.mscale) / temperature(rope.mscale_all_dim)
    return temperature(1.0)


def _dynamic(total: Tensor, config: ModelConfig, factor: float) -> Tensor:
    """Frequencies (N, d / 2) for tokens of documents that are `total` (N,) tokens long.

    The base grows so that the slowest frequency is divided by the share of the length beyond the context
    (NTK-aware scaling, arXiv:2309.00071 section 3.1).
    """
    size = config.head_dim
    half = torch.arange(0, size, 2, dtype=torch.float32, device=total.device)
    longest = total.clamp(min=config.context).float()
    growth = (factor * longest / config.context - (factor - 1.0)) ** (size / (size - 2))
    return 1.0 / (config.rope_theta * growth)[:, None] ** (half / size)


def _yarn(plain: Tensor, config: ModelConfig, rope: RopeScaling) -> Tensor:
    """Fast frequencies stay, slow ones are divided, a ramp between (arXiv:2309.00071 eq. 13-15, 20-21)."""
    size = config.head_dim

    def dimension(turns: float) -> float:
        ratio = math.log(rope.original_context / (turns * 2 * math.pi))
        return size * ratio / (2 * math.log(config.rope_theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    places = torch.arange(size // 2, dtype=torch.float32, device=plain.device)
    ramp = ((places - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)


def _llama3(plain: Tensor, rope: RopeScaling) -> Tensor:
    """As YaRN, with the ramp over turns of the original context (arXiv:2407.21783, Llama 3.1's code)."""
    turns = rope.original_context * plain / (2 * math.pi)
    ramp = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    ramp = ramp.clamp(0, 1)  # 0 where slow: divided; 1 where fast: kept
    return (1 - ramp) * plain / rope.factor + ramp * plain


def rotate(heads: Tensor, rotary: Rotary) -> Tensor:
    """Turn (N, H, d) by its positions; number i is paired with number i + d / 2, as in Hugging Face Llama."""
    if not torch.is_grad_enabled():
        return _turn(heads, *rotary, 1)
    turned: Tensor = _Turn.apply(heads, *rotary)
    return turned


class _Turn(torch.autograd.Function):
    """Four passes over memory, nothing of the input kept: the way back is the turn by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(heads, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradient, cosine, sine, -1), None, None


def _turn(heads: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    turned = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
    (first, second), (left, right) = heads.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(first, cosine, out=left).addcmul_(second, sine, value=-direction)
    torch.mul(second, cosine, out=right).addcmul_(first, sine, value=direction)
    return turned
