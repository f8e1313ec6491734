"""Drawing token ids from logits, reproducibly.

The random number behind a token is a pure function of (key, position in the reply), so neither the shape of
the batch, nor the order of requests, nor a resume can change a sample. Tokens are drawn by inverting the
cumulative distribution: on a CPU that is an order of magnitude faster than `torch.multinomial`, and unlike a
float32 cumulative sum it stays accurate in the tail of a large vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

# splitmix64: increment and the two multipliers of its finaliser (Steele, Lea and Flood 2014, "Fast splittable
# pseudorandom number generators", section 4), written as the signed int64 with the same bits.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SHIFTS = (30, 27, 31)

# Above this many ids the cumulative sum is taken in two levels: block sums first, then inside one block.
_ONE_LEVEL_IDS = 512
_BLOCK = 128


def keyed_uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) that depend on nothing but (key, position).

    Args:
        keys: (B,) int64, any values; one per reply.
        positions: (B,) int64, the index of the token within its reply.

    Returns:
        (B,) float64 with 53 random bits each: the same on every device and in every batch.
    """
    # Each key seeds a splitmix64 stream at a scrambled place, so neighbouring keys have unrelated streams.
    bits = _mix(_mix(keys + _INCREMENT) + (positions + 1) * _INCREMENT)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _mix(value: Tensor) -> Tensor:
    """The splitmix64 finaliser on int64 bit patterns: a bijection of 64-bit words."""
    value = (value ^ _shift_right(value, _SHIFTS[0])) * _MULTIPLIERS[0]
    value = (value ^ _shift_right(value, _SHIFTS[1])) * _MULTIPLIERS[1]
    return value ^ _shift_right(value, _SHIFTS[2])


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 shifts copy the sign bit, so the copied bits are masked away."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def sample(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """Draw one id per row and give its log-probability under the very distribution it was drawn from.

    Filters apply in this order: temperature, top-k, top-p (over what top-k left), min-p. A row with
    temperature 0 takes its most probable id; its log-probability is the one at temperature 1, unfiltered.

    Args:
        logits: (B, V), any float dtype; -inf marks an id that must not be drawn.
        uniforms: (B,) float64 in [0, 1), see `keyed_uniform`.
        temperature: >= 0, a number or (B,).
        top_k: keep the k most probable ids; 0 keeps all. A number or (B,).
        top_p: keep the smallest set of most probable ids that holds at least this mass; 1 keeps all.
        min_p: drop ids less probable than this share of the most probable id; 0 keeps all.

    Returns:
        ids (B,) int64 and logprobs (B,) float32, in nats.
    """
    scaled = logits.float()
    greedy: Tensor | None = None
    if isinstance(temperature, Tensor):
        greedy = temperature == 0
        # A greedy row is scored at temperature 1, so that is what it is divided by.
        scaled = scaled / torch.where(greedy, 1.0, temperature).to(scaled.dtype)[:, None]
    elif temperature == 0:
        return _greedy(scaled)
    elif temperature != 1:
        scaled = scaled / temperature
    weights = (scaled - scaled.amax(dim=-1, keepdim=True)).exp_()  # (B, V), the largest is 1
    if _filters(top_k, top_p, min_p):
        weights = weights * _kept(weights, top_k, top_p, min_p)
    ids, totals = _invert(weights, uniforms)
    chosen = weights.gather(-1, ids[:, None])[:, 0].to(torch.float64)
    logprobs = (chosen.log() - totals.log()).float()
    if greedy is None:
        return ids, logprobs
    greedy_ids, greedy_logprobs = _greedy(scaled)
    return torch.where(greedy, greedy_ids, ids), torch.where(greedy, greedy_logprobs, logprobs)


def _greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable id of each row (the first of equals) and its log-probability."""
    best, ids = logits.max(dim=-1)
    return ids, best - logits.logsumexp(dim=-1)


def _filters(top_k: int | Tensor, top_p: float | Tensor, min_p: float | Tensor) -> bool:
    """Whether any filter can drop an id (per-row tensors are taken to filter)."""
    return (
        isinstance(top_k, Tensor)
        or isinstance(top_p, Tensor)
        or isinstance(min_p, Tensor)
        or top_k > 0
        or top_p < 1
        or min_p > 0
    )


def _kept(weights: Tensor, top_k: int | Tensor, top_p: float | Tensor, min_p: float | Tensor) -> Tensor:
    """(B, V) bool: True = the id stays. Decided in order of probability, returned in order of ids.

    The draw itself stays in order of ids, so that two almost equal logits that swap ranks between batch
    shapes do not change the sample.
    """
    rows, ids = weights.shape
    limit = _column(top_k, weights).to(torch.int64)
    limit = torch.where(limit > 0, limit.clamp(max=ids), ids)
    # With one small k for all rows a partial sort is enough.
    width = min(ids, top_k) if isinstance(top_k, int) and top_k > 0 else ids
    if width < ids:
        ordered, order = weights.topk(width, dim=-1)
    else:
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    ordered = ordered.to(torch.float64)
    keep = (torch.arange(width, device=weights.device) < limit).expand(rows, width)
    mass = (ordered * keep).cumsum(dim=-1)
    # An id stays while the mass before it is short of p; the first one always stays.
    before = mass - ordered
    keep = keep & (before < _column(top_p, weights) * mass[:, -1:])
    keep = keep & (ordered >= _column(min_p, weights))
    return torch.zeros(rows, ids, dtype=torch.bool, device=weights.device).scatter_(-1, order, keep)


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or (B,) tensor as float64 that broadcasts against (B, V)."""
    tensor = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    return tensor[:, None] if tensor.ndim else tensor


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Invert the cumulative distribution of unnormalised weights.

    Args:
        weights: (B, V) float32 >= 0 whose largest entry is 1.
        uniforms: (B,) float64 in [0, 1).

    Returns:
        ids (B,) int64, never one of weight 0, and totals (B,) float64, the sum of each row.
    """
    if weights.shape[-1] <= _ONE_LEVEL_IDS:
        cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
        totals = cumulative[:, -1]
        return _locate(weights, cumulative, uniforms * totals), totals
    width = weights.shape[-1]
    whole = width - width % _BLOCK
    masses = weights[:, :whole].unflatten(-1, (-1, _BLOCK)).sum(dim=-1, dtype=torch.float64)
    if whole < width:  # the last block is short
        masses = torch.cat(
            [masses, weights[:, whole:].sum(dim=-1, keepdim=True, dtype=torch.float64)], dim=-1
        )
    cumulative = masses.cumsum(dim=-1)  # (B, blocks)
    totals = cumulative[:, -1]
    targets = uniforms * totals
    start = _locate(masses, cumulative, targets)[:, None]
    rest = targets - (cumulative - masses).gather(-1, start)[:, 0]
    columns = start * _BLOCK + torch.arange(_BLOCK, device=weights.device)  # (B, _BLOCK)
    inside = weights.gather(-1, columns.clamp(max=width - 1)) * (columns < width)
    return start[:, 0] * _BLOCK + _locate(inside, inside.cumsum(dim=-1, dtype=torch.float64), rest), totals


def _locate(weights: Tensor, cumulative: Tensor, targets: Tensor) -> Tensor:
    """First index whose cumulative weight exceeds the target: (B,) int64, always of positive weight."""
    index = torch.searchsorted(cumulative, targets[:, None], right=True).clamp_(max=weights.shape[-1] - 1)
    # Rounding (block sums, or a parallel scan on a GPU) can point at an id of weight 0 about once in 10^15
    # draws; the heaviest id takes those.
    chosen = torch.where(weights.gather(-1, index) > 0, index, weights.argmax(dim=-1, keepdim=True))
    return chosen[:, 0]
