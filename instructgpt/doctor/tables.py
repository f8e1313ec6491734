"""Tabular models behind the interfaces of the real ones: sampling, scoring and updates run unchanged.

A model here is the real `LanguageModel` or `ScalarModel` with its Transformer replaced by a table that has a
row for each node of the world, and with a head that passes the row on as it is. So the head, the cache, the
sampling engine, packing, micro-batches, log-probabilities and optimizers are the code that trains real
models; only the function from prefix to hidden state is a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import tokenizers
import torch
import torch.nn.functional as F
from tokenizers import models
from torch import Tensor, nn

from instructgpt.doctor.world import END, World
from instructgpt.model.cache import KVCache
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.text.tokenizer import Tokenizer

_END_TOKEN = "<end>"
_Model = TypeVar("_Model", LanguageModel, ScalarModel)


class Table(nn.Module):
    """Stands where the Transformer does: the hidden state of a token is its prefix's row, (M, D)."""

    child: Tensor

    def __init__(self, world: World, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())
        self.register_buffer("child", world.child.reshape(-1).clone(), persistent=False)  # (M * V,)
        self.vocab_size = world.vocab_size

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
        """(N, D) or (n, D); arguments as `Transformer.forward`. The cache's keys hold the ids read so far."""
        sizes = torch.tensor(lengths)
        row = torch.repeat_interleave(torch.arange(len(lengths)), sizes).to(ids.device)  # (N,)
        if cache is None:
            longest = int(positions.max()) + 1
            prefixes = torch.zeros(len(lengths), longest, dtype=torch.int64, device=ids.device)
            prefixes[row, positions] = ids
            parents = [prompt for prompt, count in enumerate(branches or ()) for _ in range(count)]
            for reply, prompt in enumerate(parents, start=len(branches or ())):
                prefixes[reply, : lengths[prompt]] = prefixes[prompt, : lengths[prompt]]
        else:
            plan = cache.plan(lengths, slots)
            keys = cache.keys[0]  # (slots, 1, capacity, head_dim)
            plan.store(keys, ids.to(keys.dtype)[:, None, None].expand(-1, 1, keys.shape[-1]))
            prefixes = plan.read(keys)[:, 0, :, 0].to(torch.int64)
        hidden = F.embedding(self.walk(prefixes)[row, positions], self.rows)
        if cache is not None:  # last: `positions` may be a view of the cache's lengths
            cache.advance(lengths, slots)
        return hidden if rows is None else hidden.index_select(0, rows)

    def walk(self, prefixes: Tensor) -> Tensor:
        """Nodes (R, T) that ids (R, T) lead to from the root, one after the other."""
        node = torch.zeros_like(prefixes[:, 0])
        nodes = []
        for place in range(prefixes.shape[1]):
            node = self.child[node * self.vocab_size + prefixes[:, place]]
            nodes.append(node)
        return torch.stack(nodes, 1)


def tabular_policy(world: World, logits: Tensor) -> LanguageModel:
    """A language model whose logits after a prefix are a row of (M, V), trainable."""
    size = world.vocab_size
    model = LanguageModel(_shape(world, size, tied=False))
    return _with_table(model, world, logits, torch.eye(size))


def tabular_scalar(world: World, values: Tensor) -> ScalarModel:
    """A reward or value model that gives each prefix its number of (M,), trainable."""
    return _with_table(ScalarModel(_shape(world, 1, tied=True)), world, values[:, None], torch.ones(1, 1))


def policy_logits(model: LanguageModel) -> Tensor:
    """The (M, V) table of a tabular policy, on the CPU, without gradient."""
    return model.get_parameter("transformer.rows").detach().cpu()


def world_tokenizer(world: World) -> Tokenizer:
    """A tokenizer of one word for each id: `<end>`, which ends a reply, and w1, w2, ..."""
    words = {_END_TOKEN: END} | {f"w{index}": index for index in range(1, world.vocab_size)}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token=_END_TOKEN))
    return Tokenizer(backend, eos_token=_END_TOKEN)


def _shape(world: World, width: int, tied: bool) -> ModelConfig:
    """One layer of one head, for the cache; the context is the longest prompt with its longest reply."""
    context = max(map(len, world.prompts)) + world.max_new
    return ModelConfig.gpt2(
        vocab_size=world.vocab_size, width=width, layers=1, heads=1, context=context, tied=tied
    )


def _with_table(model: _Model, world: World, rows: Tensor, head: Tensor) -> _Model:
    assert model.head is not None
    model.set_submodule("transformer", Table(world, rows))
    model.head.weight = nn.Parameter(head, requires_grad=False)
    return model
