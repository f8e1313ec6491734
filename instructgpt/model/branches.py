"""Attention where several documents go on from one: the replies to a prompt, of which each sees the prompt
and itself. The prompt's tokens are computed once, forward and backward, instead of once a reply.

Legend: N tokens of the whole batch, M of them prompts', H heads, K key/value heads, d head size, B replies of
one group, r their padded length, p the padded length of what they go on from.

The prompts come first, then all replies. Prompts attend as other documents do. The replies of one group are
queries (B, r) against keys (B, p + r): the keys of the prompt, copied to each of its replies, and their own.
The gradients of those copies are added up again, so they are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from instructgpt.model.attention import PackedPlan, packed_attention, plan_packed
from instructgpt.model.config import ModelConfig

# Replies whose padded product of queries and keys would be this many times their own make another group.
SLACK = 2.0
# Up to this many keys the two products written out beat scaled_dot_product_attention with a mask.
EXPLICIT_KEYS = 192
HALF_EXPLICIT_KEYS = 512


@dataclass(frozen=True)
class BranchGroup:
    """Replies that share one padded rectangle of queries and one of keys."""

    replies: int
    length: int
    """r"""
    prefix: int
    """p"""
    bias: Tensor
    """(B, 1, r, p + r) added to the scores, 0 where a token looks and else -inf; in the shape of the scores
    where the products are written out."""
    explicit: bool


@dataclass(frozen=True)
class BranchPlan:
    """Where every token goes for attention; made once a forward pass, for all layers."""

    tokens: int
    """M"""
    prompts: PackedPlan
    groups: tuple[BranchGroup, ...]
    queries: Tensor
    """Token at every place of the query rectangles laid behind one another."""
    keys: Tensor
    """Likewise of the key rectangles."""
    restore: Tensor
    """(N - M,) place of every reply token in the query rectangles."""
    own: Tensor
    """(N - M,) place of every reply token in the key rectangles."""
    copies: tuple[Tensor, ...]
    """The j-th holds the places of prompt tokens in the rectangle of their prompt's j-th reply; the prompts
    with most replies come first, so it is about the first tokens of the M."""


def plan_branches(
    lengths: Sequence[int],
    branches: Sequence[int],
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> BranchPlan:
    """Lay out attention.

    Args:
        lengths: tokens of each prompt, then of each reply, prompt after prompt; each at least 1.
        branches: how many replies go on from each prompt, not increasing; 0 is a document by itself.
        dtype: of the weights; under autocast attention computes in autocast's.
    """
    window = config.window
    if sum(branches) != len(lengths) - len(branches) or list(branches) != sorted(branches, reverse=True):
        raise ValueError("branches must count the replies of each prompt, the largest number first")
    starts = [0, *accumulate(lengths)]
    prompts = plan_packed(lengths[: len(branches)], device, dtype, window)
    parents = [prompt for prompt, count in enumerate(branches) for _ in range(count)]
    first = len(branches)  # document of the first reply
    queries, keys, groups = [], [], []
    placed = [0] * len(parents)  # of each reply: where its own keys begin in the key rectangles
    placed_prompt = [0] * len(parents)
    restored = [0] * len(parents)
    query_places = key_places = 0
    for members in _alike([lengths[parent] for parent in parents], lengths[first:]):
        prefix = torch.tensor([lengths[parents[i]] for i in members])
        own = torch.tensor([lengths[first + i] for i in members])
        p, r = int(prefix.max()), int(own.max())
        prompt_starts = torch.tensor([starts[parents[i]] for i in members])
        own_starts = torch.tensor([starts[first + i] for i in members])
        # Padding repeats a last token: any finite content will do, nothing real attends to it.
        own_tokens = own_starts[:, None] + torch.minimum(torch.arange(r), own[:, None] - 1)  # (B, r)
        prompt_tokens = prompt_starts[:, None] + torch.minimum(torch.arange(p), prefix[:, None] - 1)
        queries.append(own_tokens.view(-1))
        keys.append(torch.cat((prompt_tokens, own_tokens), dim=1).view(-1))
        groups.append(_group(prefix, p, r, config, device, dtype))
        for place, member in enumerate(members):
            restored[member] = query_places + place * r
            placed_prompt[member] = key_places + place * (p + r)
            placed[member] = placed_prompt[member] + p
        query_places += len(members) * r
        key_places += len(members) * (p + r)
    own_lengths = lengths[first:]
    return BranchPlan(
        tokens=starts[first],
        prompts=prompts,
        groups=tuple(groups),
        queries=_joined(queries).to(device),
        keys=_joined(keys).to(device),
        restore=_runs(restored, own_lengths).to(device),
        own=_runs(placed, own_lengths).to(device),
        copies=tuple(
            _runs(
                [placed_prompt[start + j] for start, count in _children(branches) if count > j],
                [length for length, count in zip(lengths, branches, strict=False) if count > j],
            ).to(device)
            for j in range(max(branches, default=0))
        ),
    )


def branch_attention(query_key: Tensor, value: Tensor, heads: int, plan: BranchPlan) -> Tensor:
    """query_key (N, H + K, d): queries, then keys; value (N, K, d) -> (N, H * d)."""
    size = query_key.shape[-1]
    gathered = _Spread.apply(query_key, value, heads, plan)
    prompt_query_key, prompt_value, query, key, values = gathered
    prompts = packed_attention(prompt_query_key, prompt_value, heads, plan.prompts)
    outputs = []
    query_sizes = [group.replies * group.length for group in plan.groups]
    key_sizes = [group.replies * (group.prefix + group.length) for group in plan.groups]
    parts = zip(
        plan.groups, query.split(query_sizes), key.split(key_sizes), values.split(key_sizes), strict=True
    )
    for group, queries, keys, group_values in parts:
        kv_shape = (group.replies, group.prefix + group.length, -1, size)
        mixed = _masked(
            queries.view(group.replies, group.length, heads, size),
            keys.view(kv_shape),
            group_values.view(kv_shape),
            group,
        )
        outputs.append(mixed)
    joined: Tensor = _Join.apply(prompts, torch.cat(outputs) if outputs else prompts[:0], plan)
    return joined


def _masked(query: Tensor, key: Tensor, value: Tensor, group: BranchGroup) -> Tensor:
    """query (B, r, H, d), key and value (B, p + r, K, d) -> (B * r, H * d)."""
    replies, length, heads, size = query.shape
    kv_heads = key.shape[2]
    if not group.explicit:
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=group.bias.to(query.dtype),
            enable_gqa=heads != kv_heads,
        )  # (B, H, r, d)
        return mixed.transpose(1, 2).reshape(replies * length, heads * size)
    shared = heads // kv_heads  # query heads that share one key/value head
    stacked = query.view(replies, length, kv_heads, shared, size).permute(0, 2, 3, 1, 4)
    stacked = stacked.reshape(replies * kv_heads, shared * length, size)
    keys, values = (x.transpose(1, 2).reshape(replies * kv_heads, -1, size) for x in (key, value))
    with torch.autocast(query.device.type, enabled=False):  # it would make the softmax float32, in two copies
        bias = group.bias.to(query.dtype)
        scores = torch.baddbmm(bias, stacked, keys.transpose(1, 2), alpha=size**-0.5)
        mixed = scores.softmax(-1) @ values  # (B * K, shared * r, d)
    mixed = mixed.view(replies, kv_heads, shared, length, size).permute(0, 3, 1, 2, 4)
    return mixed.reshape(replies * length, heads * size)


class _Spread(torch.autograd.Function):
    """Packed rows -> the prompts' rows, and the rectangles of queries, keys and values of the replies.

    On the way back every token gets the sum over its copies, by plain gathers: added up row by row, as
    index_select's own derivative does, it would take a quarter of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, query_key: Tensor, value: Tensor, heads: int, plan: BranchPlan
    ) -> tuple[Tensor, ...]:
        ctx.heads, ctx.plan, ctx.shapes = heads, plan, (query_key.shape, value.shape)
        return (
            query_key[: plan.tokens].clone(),
            value[: plan.tokens].clone(),
            query_key[:, :heads].index_select(0, plan.queries),
            query_key[:, heads:].index_select(0, plan.keys),
            value.index_select(0, plan.keys),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, query_key: Tensor, value: Tensor, query: Tensor, key: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        heads, plan = ctx.heads, ctx.plan
        to_query_key, to_value = query_key.new_empty(ctx.shapes[0]), value.new_empty(ctx.shapes[1])
        replies = slice(plan.tokens, None)
        to_query_key[: plan.tokens] = query_key
        to_value[: plan.tokens] = value
        to_query_key[replies, :heads] = query.index_select(0, plan.restore)
        to_query_key[replies, heads:] = key.index_select(0, plan.own)
        to_value[replies] = values.index_select(0, plan.own)
        for places in plan.copies:
            to_query_key[: len(places), heads:] += key.index_select(0, places)
            to_value[: len(places)] += values.index_select(0, places)
        return to_query_key, to_value, None, None


class _Join(torch.autograd.Function):
    """The prompts' rows and the rectangles of the replies -> packed rows; padding gets zeros back."""

    @staticmethod
    def forward(ctx: Any, prompts: Tensor, rectangles: Tensor, plan: BranchPlan) -> Tensor:
        ctx.plan, ctx.places = plan, rectangles.shape[0]
        return torch.cat((prompts, rectangles.index_select(0, plan.restore)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        plan = ctx.plan
        rectangles = gradient.new_zeros((ctx.places, *gradient.shape[1:]))
        rectangles.index_copy_(0, plan.restore, gradient[plan.tokens :])
        return gradient[: plan.tokens], rectangles, None


def _alike(prefixes: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Replies of like shape: sorted by their keys, cut where padding would cost too much."""
    order = sorted(range(len(lengths)), key=lambda i: (prefixes[i] + lengths[i], lengths[i]))
    groups: list[list[int]] = []
    p = r = own = 0
    for i in order:
        longest, prefix = max(r, lengths[i]), max(p, prefixes[i])
        mine = lengths[i] * (prefixes[i] + lengths[i])
        padded = longest * (prefix + longest) * (len(groups[-1]) + 1 if groups else 1)
        if not groups or padded > SLACK * (own + mine):
            groups.append([])
            longest, prefix, own = lengths[i], prefixes[i], 0
        groups[-1].append(i)
        p, r, own = prefix, longest, own + mine
    return groups


def _group(
    prefix: Tensor, p: int, r: int, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> BranchGroup:
    """`prefix` (B,): tokens of each reply's prompt."""
    replies = len(prefix)
    kind = device.type
    if torch.is_autocast_enabled(kind) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(kind)
    half = dtype.itemsize == 2
    explicit = p + r <= (HALF_EXPLICIT_KEYS if half and kind == "cpu" else EXPLICIT_KEYS)
    seen = _seen(prefix, p, r, config.window)
    bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf")).to(device)
    if explicit:  # baddbmm takes it in the shape of the scores; made once for all layers
        shared = config.heads // config.kv_heads
        bias = bias.repeat(1, shared, 1)[:, None].expand(-1, config.kv_heads, -1, -1).flatten(0, 1)
    else:
        bias = bias[:, None]
    return BranchGroup(replies, r, p, bias, explicit)


def _seen(prefix: Tensor, p: int, r: int, window: int | None) -> Tensor:
    """(B, r, p + r) bool: where a reply's token looks."""
    places = torch.arange(r)
    at = prefix[:, None, None] + places[:, None]  # (B, r, 1): position of the token that looks
    looked_at = torch.cat(
        (torch.arange(p).expand(len(prefix), p), prefix[:, None] + places), dim=1
    )  # (B, p + r)
    real = torch.cat((torch.arange(p) < prefix[:, None], torch.ones(len(prefix), r, dtype=torch.bool)), dim=1)
    seen = real[:, None] & (looked_at[:, None] <= at)
    if window is not None:
        seen &= looked_at[:, None] > at - window
    return seen


def _runs(starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """start, start + 1, ... of each run, behind one another."""
    counts = torch.tensor(lengths, dtype=torch.int64)
    offsets = torch.tensor(starts, dtype=torch.int64) - (counts.cumsum(0) - counts)
    return torch.arange(int(counts.sum())) + offsets.repeat_interleave(counts)


def _children(branches: Sequence[int]) -> list[tuple[int, int]]:
    """(number of the first reply, number of replies) of each prompt."""
    return list(zip([0, *accumulate(branches)], branches, strict=False))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.int64)
