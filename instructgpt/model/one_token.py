"""The forward pass of one token of one reply, with as few operations as it takes.

A single reply of a small model is made of a thousand operations that cost more to start than to do. Two
threads of an EPYC (Zen 4), SmolLM2-135M in bfloat16: of 12.6 ms a token the products with the weights took 7,
PyTorch's other operations 2.5, and Python, a third of it in `nn.Module`, 3.

What it computes is what `Transformer.forward` does; attention is in float32 here, and so are the turns by
position, as one product with a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instructgpt.model.cache import KVCache
from instructgpt.model.config import ModelConfig
from instructgpt.model.rope import rotary_table
from instructgpt.model.transformer import Attention, Block, Norm, Transformer

Step = Callable[[Tensor], Tensor]
Addition = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class _Layer:
    """The steps of one layer, without the modules they are of."""

    attention_norm: Step
    qkv: Step
    heads_norm: Step | None
    output: Addition
    feed_norm: Step
    up: Step
    down: Addition


class OneToken:
    """One token at a time of slot 0 of a cache, by a model whose weights stay as they are, on a CPU."""

    def __init__(self, transformer: Transformer) -> None:
        self._config: ModelConfig = transformer.config
        self._embedding, self._positions = transformer.embedding, transformer.position_embedding
        self._layers = [_layer(block) for block in transformer.blocks if isinstance(block, Block)]
        self._final_norm = _norm(transformer.final_norm)
        self._unused = torch.empty(1, 1, 1)

    def __call__(self, ids: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
        """ids (1,) and positions (1,) -> (1, D) hidden state after the last norm, as `Transformer.forward`.

        Raises ValueError when the slot is full.
        """
        config = self._config
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        both, scale, gated = heads + kv_heads, size**-0.5, config.activation == "swiglu"
        place = int(cache.lengths[0])
        if place >= cache.capacity:
            raise ValueError(f"a row of {place + 1} tokens does not fit a cache of capacity {cache.capacity}")
        first = 0 if config.window is None else max(0, place + 1 - config.window)
        hidden = self._embedding.weight[ids]
        turn = None
        if self._positions is not None:
            hidden = hidden + self._positions.weight[positions]
        else:
            turn = _turn(positions, config)
        all_keys, all_values = (x[:, 0, :, first : place + 1] for x in (cache.keys, cache.values))
        layers = zip(
            self._layers,
            all_keys.transpose(-1, -2).unbind(0),  # (K, d, T) each
            all_values.unbind(0),  # (K, T, d)
            all_keys[:, :, -1].unbind(0),  # (K, d)
            all_values[:, :, -1].unbind(0),
            strict=True,
        )
        for layer, keys, values, new_key, new_value in layers:
            projected = layer.qkv(layer.attention_norm(hidden)).view(both + kv_heads, size)
            if layer.heads_norm is not None:
                projected = layer.heads_norm(projected)
            query_key, value = projected.float().split((both, kv_heads))
            if turn is not None:
                query_key = query_key.mm(turn)
            query, key = query_key.split((heads, kv_heads))
            new_key.copy_(key)
            new_value.copy_(value)
            query = query.view(kv_heads, -1, size)
            scores = torch.baddbmm(self._unused, query, keys.float(), beta=0, alpha=scale)
            mixed = scores.softmax(-1).bmm(values.float())  # (K, H / K, d)
            hidden = layer.output(mixed.view(1, -1).to(hidden.dtype), hidden)
            inner = layer.up(layer.feed_norm(hidden))
            if gated:
                gate, up = inner.chunk(2, dim=-1)
                inner = F.silu(gate).mul_(up)
            else:
                inner = F.gelu(inner, approximate="tanh")
            hidden = layer.down(inner, hidden)
        cache.lengths[0] += 1
        return self._final_norm(hidden)


def _turn(positions: Tensor, config: ModelConfig) -> Tensor:
    """(d, d) float32: (H, d) times this is turned by the one position (see `rope.rotate`)."""
    cosine, sine = (torch.diag(x.view(-1)) for x in rotary_table(positions, [1], config, torch.float32))
    return torch.cat((torch.cat((cosine, sine), dim=1), torch.cat((-sine, cosine), dim=1)))


def _layer(block: Block) -> _Layer:
    attention = block.attention
    return _Layer(
        _norm(block.attention_norm),
        attention.qkv.forward,
        _heads_norm(attention),
        _addition(attention.output),
        _norm(block.feed_norm),
        block.feed.up.forward,
        _addition(block.feed.down),
    )


def _heads_norm(attention: Attention) -> Step | None:
    """The norms of queries and keys, if the family has them: (H + 2K, d) -> (H + 2K, d)."""
    if attention.query_norm is None or attention.key_norm is None:
        return None
    of_query, of_key = attention.query_norm.forward, attention.key_norm.forward
    parts = (attention.heads, attention.kv_heads, attention.kv_heads)

    def step(heads: Tensor) -> Tensor:
        query, key, value = heads.split(parts)
        return torch.cat((of_query(query), of_key(key), value))

    return step


def _norm(norm: Norm) -> Step:
    """As `Norm.forward`. RMSNorm in half precision by the kernel of LayerNorm too, of the numbers and their
    negatives, here with the weight in it."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    if bias is not None or weight.dtype.itemsize != 2:
        return norm.forward
    signs = torch.tensor([[1.0], [-1.0]], dtype=weight.dtype)
    doubled = torch.stack((weight, weight)).detach()  # (2, D)
    shape = doubled.shape

    def step(hidden: Tensor) -> Tensor:
        return torch.layer_norm(signs * hidden, shape, doubled, None, eps).narrow(0, 0, 1)

    return step


def _addition(layer: nn.Module) -> Addition:
    """(1, in) and (1, out) -> (1, out): the layer's output added to the second."""
    added = getattr(layer, "added", None)
    if added is not None:
        return added

    def step(inputs: Tensor, other: Tensor) -> Tensor:
        return layer.forward(inputs).add_(other)

    return step
