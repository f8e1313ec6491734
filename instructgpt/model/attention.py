"""Attention over packed tokens: inside each document (training, scoring) and against a cache (generation).

Legend: N tokens of the whole batch, H heads, K key/value heads, d head size, B documents of one group,
L their padded length, R rows of a cached batch, T cached positions looked at.

Tokens of all documents lie behind one another, so that no linear layer ever sees padding. Only inside
attention are documents of like length brought into one rectangle. Padding is on the right and attention is
causal, so a real token cannot see it and no mask is needed.

With a window a token sees itself and the window - 1 tokens before it; a document that fits into the window
takes the paths without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from instructgpt.model.cache import CachePlan

# Up to this length the two matrix products written out beat scaled_dot_product_attention: forward + backward
# on 2 threads in float32, 512 documents of 40 tokens, 4 heads of 32: 31 ms against 48-61 ms a layer; beyond
# it they lose (64 of 100 tokens: 33 against 17; 8 of 512: 34 against 29).
EXPLICIT_LENGTH = 64
# In half precision they win further: GPT-2's 12 heads of 64, forward + backward of 1,000 tokens on one core
# (Zen 5) in documents of 100: 8 ms against 39 a layer, of 200: 13 against 40, of 512: 26 against 65. What is
# kept for the way back, 2 bytes x heads x length a token, bounds it.
HALF_EXPLICIT_LENGTH = 512
# Up to so many rows of a cache half precision is made float32 first: oneDNN's own start costs more. CPU ms of
# a token of SmolLM2-135M, one row 1.8 against 3.3, four 3.1 against 4.1.
FEW_ROWS = 8
# A group may hold this much padding. One more group costs some ten kernel launches a layer.
LENGTH_SLACK = 1.25
LENGTH_SLACK_TOKENS = 8
# Where asked for, documents that fill no more than this with all their padding are one group.
FEW_TOKENS = 512


@dataclass(frozen=True)
class Group:
    """Documents that share one padded rectangle."""

    documents: int
    length: int
    bias: Tensor | None
    """(L, L) added to the scores, 0 where a token looks and else -inf: where the products are written out,
    and where a window hides something."""
    explicit: bool = False
    """Whether the products are written out."""


@dataclass(frozen=True)
class PackedPlan:
    """Where every token of a packed batch goes for attention; made once a forward pass, for all layers."""

    groups: tuple[Group, ...]
    gather: Tensor | None
    """(P,) token at every place of the rectangles laid behind one another; None when that is 0..N-1."""
    restore: Tensor | None
    """(N,) place of every token there."""


def plan_packed(
    lengths: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    window: int | None = None,
    together: bool = False,
) -> PackedPlan:
    """Group documents of like length; `lengths` are tokens per document in packed order, each at least 1.

    window: how many tokens up to itself a token sees; None is all of its document.
    together: few short documents are one group, whatever their lengths; for passes that are mostly overhead.
    """
    half = dtype.itemsize == 2 or torch.is_autocast_enabled(device.type)
    most = HALF_EXPLICIT_LENGTH if half and device.type == "cpu" else EXPLICIT_LENGTH
    if min(lengths) == max(lengths):
        return PackedPlan((_group(len(lengths), lengths[0], device, dtype, window, most),), None, None)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    few = together and len(lengths) * max(lengths) <= FEW_TOKENS
    members: list[list[int]] = [[order[0]]]
    for document in order[1:]:
        shortest = lengths[members[-1][0]]
        if few or lengths[document] <= max(shortest * LENGTH_SLACK, shortest + LENGTH_SLACK_TOKENS):
            members[-1].append(document)
        else:
            members.append([document])
    starts = [0, *accumulate(lengths)]
    gathers = []
    reals = []
    for group in members:
        group_starts = torch.tensor([starts[i] for i in group])
        group_lengths = torch.tensor([lengths[i] for i in group])
        within = torch.arange(lengths[group[-1]])
        # Padding repeats the document's last token: any finite content will do, nothing real attends to it.
        gathers.append((group_starts[:, None] + torch.minimum(within, group_lengths[:, None] - 1)).view(-1))
        reals.append((within < group_lengths[:, None]).view(-1))
    gather, real = torch.cat(gathers), torch.cat(reals)  # (P,)
    restore = torch.empty(starts[-1], dtype=torch.int64)
    restore[gather[real]] = real.nonzero().view(-1)
    groups = tuple(_group(len(group), lengths[group[-1]], device, dtype, window, most) for group in members)
    return PackedPlan(groups, gather.to(device), restore.to(device))


def _group(
    documents: int,
    length: int,
    device: torch.device,
    dtype: torch.dtype,
    window: int | None,
    most: int,
) -> Group:
    """`most`: the longest documents whose products are written out."""
    far = window is not None and window < length  # some token does not see its document's first
    if length > most and not far:
        return Group(documents, length, None)
    nowhere = torch.full((length, length), float("-inf"), dtype=dtype, device=device)
    bias = nowhere.triu(1)
    if window is not None and far:
        bias = bias + nowhere.tril(-window)
    return Group(documents, length, bias, length <= most)


def packed_attention(query_key: Tensor, value: Tensor, heads: int, plan: PackedPlan) -> Tensor:
    """Causal attention inside each document.

    query_key (N, H + K, d): queries, then keys; value (N, K, d) -> (N, H * d).
    """
    if plan.gather is not None and plan.restore is not None:
        query_key, value = (_ToRectangles.apply(x, plan.gather, plan.restore) for x in (query_key, value))
    sizes = [group.documents * group.length for group in plan.groups]
    outputs = [
        _causal(both.view(group.documents, group.length, *both.shape[1:]), values, heads, group)
        for both, values, group in zip(query_key.split(sizes), value.split(sizes), plan.groups, strict=True)
    ]
    if plan.gather is None or plan.restore is None:
        return outputs[0]
    mixed: Tensor = _FromRectangles.apply(torch.cat(outputs), plan.gather, plan.restore)
    return mixed


class _ToRectangles(torch.autograd.Function):
    """Packed rows -> rectangles. Padding gets no gradient, so the way back is a plain gather as well
    (index_select's own derivative adds row by row: a quarter of a training step)."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, gather: Tensor, restore: Tensor) -> Tensor:
        ctx.save_for_backward(restore)
        return packed.index_select(0, gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (restore,) = ctx.saved_tensors
        return gradient.index_select(0, restore), None, None


class _FromRectangles(torch.autograd.Function):
    """Rectangles -> packed rows; on the way back padding gets zeros."""

    @staticmethod
    def forward(ctx: Any, rectangles: Tensor, gather: Tensor, restore: Tensor) -> Tensor:
        ctx.save_for_backward(restore)
        ctx.places = gather.shape[0]
        return rectangles.index_select(0, restore)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (restore,) = ctx.saved_tensors
        back = gradient.new_zeros((ctx.places, *gradient.shape[1:]))
        return back.index_copy_(0, restore, gradient), None, None


def _causal(query_key: Tensor, value: Tensor, heads: int, group: Group) -> Tensor:
    """query_key (B, L, H + K, d), value (B * L, K, d) -> (B * L, H * d)."""
    documents, length, _, size = query_key.shape
    query, key = query_key[:, :, :heads], query_key[:, :, heads:]
    value = value.view(documents, length, -1, size)
    kv_heads = key.shape[2]
    if group.bias is None or not group.explicit:
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=group.bias,
            is_causal=group.bias is None,
            enable_gqa=heads != kv_heads,
        )  # (B, H, L, d)
        return mixed.transpose(1, 2).reshape(documents * length, heads * size)
    shared = heads // kv_heads  # query heads that share one key/value head
    half = query.dtype.itemsize == 2
    scaled = query if half else query * size**-0.5
    stacked = scaled.view(documents, length, kv_heads, shared, size).permute(0, 2, 3, 1, 4)
    stacked = stacked.reshape(documents, kv_heads, shared * length, size)
    bias = group.bias.repeat(shared, 1)
    if half:
        mixed = _half_attention(stacked, key.transpose(1, 2), value.transpose(1, 2), bias)
    else:
        scores = stacked @ key.permute(0, 2, 3, 1)  # (B, K, shared * L, L)
        mixed = (scores + bias).softmax(-1) @ value.transpose(1, 2)
    mixed = mixed.view(documents, kv_heads, shared, length, size)
    return mixed.permute(0, 3, 1, 2, 4).reshape(documents * length, heads * size)


def _half_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """query (B, K, shared * L, d), key and value (B, K, L, d), bias (shared * L, L) -> as query.

    Scores and weights are stored in half precision, once each; products and softmax sum in float32.
    """
    with torch.autocast(query.device.type, enabled=False):  # it would make the softmax float32, in two copies
        pairs = query.shape[0] * query.shape[1]
        scores = torch.baddbmm(
            bias.to(query.dtype).expand(pairs, -1, -1),
            query.flatten(0, 1),
            key.flatten(0, 1).transpose(-1, -2),
            alpha=query.shape[-1] ** -0.5,
        )
        return (scores.softmax(-1) @ value.flatten(0, 1)).view(query.shape)


def cached_attention(query: Tensor, keys: Tensor, values: Tensor, plan: CachePlan) -> Tensor:
    """Attention of new tokens to their row's cache: query (N, H, d), keys and values (slots, K, C, d).

    Returns (N, H * d), C is the capacity.

    The new tokens' own keys are in the cache already. The two matrix products are written out, with the query
    heads of one key/value head as rows of one product; microseconds a layer on 2 threads against
    scaled_dot_product_attention with a mask, (R, H, K, T, d):
    float32 (256, 4, 4, 64, 32) 507 : 656, (256, 4, 4, 128, 32) 1825 : 2106, (32, 9, 3, 128, 64) 165 : 269,
    (32, 9, 3, 512, 64) 908 : 1040; bfloat16 796 : 2029, 1757 : 3583, 309 : 1809, 1706 : 7216.
    """
    size, dtype = query.shape[-1], query.dtype
    kv_heads = keys.shape[1]
    shared = query.shape[1] // kv_heads
    rows_keys, rows_values = plan.read(keys), plan.read(values)  # (R, K, T, d)
    if dtype.itemsize == 2 and plan.rows <= FEW_ROWS and query.device.type == "cpu":
        query, rows_keys, rows_values = query.float(), rows_keys.float(), rows_values.float()
    query = query * size**-0.5
    if plan.gather is None:  # one new token a row
        rows, new = query.shape[0], 1
        stacked = query.view(rows, kv_heads, shared, size)
    else:
        rows, new = plan.gather.shape
        stacked = query[plan.gather].view(rows, new, kv_heads, shared, size).permute(0, 2, 3, 1, 4)
        stacked = stacked.reshape(rows, kv_heads, shared * new, size)
    scores = stacked @ rows_keys.transpose(-1, -2)  # (R, K, shared * new, T)
    if plan.bias is not None:
        bias = plan.bias if new == 1 else plan.bias.repeat(1, 1, shared, 1)
        scores = scores + bias
    mixed = (scores.softmax(-1) @ rows_values).to(dtype)
    if plan.gather is None:
        return mixed.view(rows, -1)
    mixed = mixed.view(rows, kv_heads, shared, new, size).permute(0, 3, 1, 2, 4)
    return mixed.reshape(rows * new, kv_heads * shared * size).index_select(0, plan.restore)
