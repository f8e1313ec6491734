"""The decoder-only Transformer of all families, on packed tokens.

Legend: N tokens of the whole batch, D width, H heads, K key/value heads, d head size, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instructgpt.model.attention import (
    PackedPlan,
    cached_attention,
    packed_attention,
    plan_packed,
)
from instructgpt.model.branches import BranchPlan, branch_attention, plan_branches
from instructgpt.model.cache import CachePlan, KVCache
from instructgpt.model.config import ModelConfig
from instructgpt.model.linear import Embedding, Linear
from instructgpt.model.rope import Rotary, rotary_table, rotate


class Norm(nn.Module):
    """LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467) over the last dimension, the width."""

    def __init__(self, config: ModelConfig, size: int | None = None) -> None:
        super().__init__()
        size = config.width if size is None else size
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if config.norm == "layer" else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        if self.bias is None:
            if hidden.dtype.itemsize == 2 and hidden.device.type == "cpu" and not torch.is_grad_enabled():
                return _short_rms_norm(hidden, self.weight, self.eps)
            return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)


def _short_rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm by the one kernel of LayerNorm: numbers and their negatives have mean 0, and their variance is
    the mean square. In half precision PyTorch's own is a dozen operations, 3 ms a token of SmolLM2-135M."""
    both = torch.cat((hidden, -hidden), dim=-1)
    normed = F.layer_norm(both, both.shape[-1:], None, None, eps)
    return normed[..., : hidden.shape[-1]] * weight


class Attention(nn.Module):
    """Multi-head or grouped-query attention; query, key and value are one product (one launch, not three)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.heads,
            config.kv_heads,
            config.head_dim,
        )
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = Linear(config.width, rows, bias=config.attention_bias)
        self.output = Linear(config.heads * config.head_dim, config.width, bias=config.output_bias)
        self.query_norm = Norm(config, config.head_dim) if config.qk_norm else None
        self.key_norm = Norm(config, config.head_dim) if config.qk_norm else None

    def forward(
        self,
        hidden: Tensor,
        rotary: Rotary | None,
        packed: PackedPlan | BranchPlan | None,
        cached: CachePlan | None,
        stored: tuple[Tensor, Tensor] | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D), or (n, D) of the tokens `rows`.

        `packed` where tokens see only their own document and what it goes on from, else `cached` and
        `stored`; with both, the first `cached.tokens` are read from the cache, and the rest are packed.
        """
        assert packed is not None or cached is not None
        both = self.heads + self.kv_heads
        projected = self.qkv(hidden).view(-1, both + self.kv_heads, self.head_dim)  # (N, H + 2K, d)
        query_key, value = projected[:, :both], projected[:, both:]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = query_key.split((self.heads, self.kv_heads), dim=1)
            query_key = torch.cat((self.query_norm(query), self.key_norm(key)), dim=1)
        if rotary is not None:
            query_key = rotate(query_key, rotary)
        if cached is not None and stored is not None:
            cached.store(stored[0], query_key[:, self.heads :])
            cached.store(stored[1], value)
        parts = []
        if cached is not None and stored is not None and not cached.empty:
            query, held = query_key[: cached.tokens, : self.heads], cached.tokens
            parts.append(cached_attention(query, stored[0], stored[1], cached))
            query_key, value = query_key[held:], value[held:]
        if isinstance(packed, BranchPlan):
            parts.append(branch_attention(query_key, value, self.heads, packed))
        elif packed is not None:
            parts.append(packed_attention(query_key, value, self.heads, packed))
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.output(mixed if rows is None else take_rows(mixed, rows))


class FeedForward(nn.Module):
    """GELU (tanh form) or SwiGLU (arXiv:2002.05202) feed-forward; SwiGLU's gate and up are one product."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        inner = config.ffn_width * (2 if self.gated else 1)
        self.up = Linear(config.width, inner, bias=config.mlp_bias)
        self.down = Linear(config.ffn_width, config.width, bias=config.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        inner = self.up(hidden)
        if self.gated:
            gate, up = inner.chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(inner, approximate="tanh"))


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config)
        self.feed_norm = Norm(config)
        self.feed = FeedForward(config)

    def forward(
        self,
        hidden: Tensor,
        rotary: Rotary | None,
        packed: PackedPlan | BranchPlan | None,
        cached: CachePlan | None,
        stored: tuple[Tensor, Tensor] | None,
        dropout: float,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D), or (n, D) of the tokens `rows`."""
        change = self.attention(self.attention_norm(hidden), rotary, packed, cached, stored, rows)
        if rows is not None:
            hidden = take_rows(hidden, rows)
        hidden = hidden + (F.dropout(change, dropout) if dropout else change)
        change = self.feed(self.feed_norm(hidden))
        return hidden + (F.dropout(change, dropout) if dropout else change)


class Transformer(nn.Module):
    """Token ids to hidden states (after the last norm); no state beside the weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.width)
        learned = config.positions == "learned"
        self.position_embedding = Embedding(config.context, config.width) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = Norm(config)
        self.one_token: Callable[[Tensor, Tensor, KVCache], Tensor] | None = None
        """The pass of a single token of slot 0 of a cache, where there is a faster one."""

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        lengths: Sequence[int],
        cache: KVCache | None = None,
        slots: Tensor | None = None,
        dropout: float = 0.0,
        rows: Tensor | None = None,
        branches: Sequence[int] | None = None,
        fresh: int = 0,
    ) -> Tensor:
        """Hidden states (N, D) of packed tokens; documents never see one another.

        ids (N,) and positions (N,): all documents behind one another; position 0 is a document's first token.
        lengths: tokens per document, each at least 1, together N.
        cache: row r appends lengths[r] tokens to slot slots[r] (default 0..R-1), whose tokens it sees, and
            `positions` must continue that slot. Inference only: torch.inference_mode() or no_grad().
        dropout: probability on each layer's two additions to the residual stream; only SFT passes it.
        rows: (n,) distinct tokens whose hidden states are wanted: (n, D) comes back, and the last layer does
            for the others only what these see of them.
        branches: the first len(branches) documents are prompts and the others go on from them, branches[i]
            of them from prompt i in order, largest numbers first; each sees its prompt and itself. Their
            `positions` continue the prompt's. 0 = a document by itself. Without a cache.
        fresh: the last so many documents go into empty slots of the cache and see only themselves: new
            prompts are read in the pass in which other rows go on.
        """
        packed: PackedPlan | BranchPlan | None = None
        cached: CachePlan | None = None
        if cache is not None:
            if torch.is_grad_enabled():
                raise ValueError("a cached forward pass carries no gradients: use torch.inference_mode()")
            if self.one_token is not None and len(ids) == 1 and slots is None and rows is None:
                return self.one_token(ids, positions, cache)
            cached = cache.plan(lengths, slots, fresh if fresh < len(lengths) else 0)
        if branches is not None:
            assert cache is None
            packed = plan_branches(lengths, branches, self.config, ids.device, self.embedding.weight.dtype)
        elif cached is None or cached.empty or fresh:
            alone = lengths if cached is None or cached.empty else lengths[-fresh:]
            dtype, window = self.embedding.weight.dtype, self.config.window
            packed = plan_packed(alone, ids.device, dtype, window, together=cache is not None)
        hidden = self.embedding(ids)
        rotary = None
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        else:
            rotary = rotary_table(positions, lengths, self.config, hidden.dtype)
        if dropout:
            hidden = F.dropout(hidden, dropout)
        for number, block in enumerate(self.blocks):
            stored = None if cache is None else (cache.keys[number], cache.values[number])
            wanted = rows if number == len(self.blocks) - 1 else None
            hidden = block(hidden, rotary, packed, cached, stored, dropout, wanted)
        if cache is not None:
            cache.advance(lengths, slots)
        return self.final_norm(hidden)


def take_rows(packed: Tensor, rows: Tensor) -> Tensor:
    """(N, ...) -> (n, ...): distinct `rows`, in any order."""
    taken: Tensor = _TakeRows.apply(packed, rows)
    return taken


class _TakeRows(torch.autograd.Function):
    """On the way back the others get zeros, by a copy: index_select's own derivative adds row by row."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.length = packed.shape[0]
        return packed.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        back = gradient.new_zeros((ctx.length, *gradient.shape[1:]))
        return back.index_copy_(0, rows, gradient), None
