"""A training loop as one writes it in an afternoon: GPT-2 in plain PyTorch, documents packed into full rows.

The yardstick for what PyTorch gives without a framework, in the manner of nanoGPT: rows of concatenated
documents that see one another, bfloat16 by autocast, fused AdamW. Random weights. Needs torch alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.inputs import CONTEXT, SIZES


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        rows, length, width = hidden.shape
        shape = (rows, length, self.heads, width // self.heads)
        query, key, value = (
            x.view(shape).transpose(1, 2) for x in self.qkv(self.norms[0](hidden)).split(width, dim=2)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.output(mixed.transpose(1, 2).reshape(rows, length, width))
        return hidden + self.down(F.gelu(self.up(self.norms[1](hidden)), approximate="tanh"))


class PlainGPT(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(self, size: str) -> None:
        super().__init__()
        shape = SIZES[size]
        self.words = nn.Embedding(shape.vocab, shape.width)
        self.places = nn.Embedding(CONTEXT, shape.width)
        self.blocks = nn.Sequential(*(Block(shape.width, shape.heads) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) ids and next ids -> mean loss in nats; -1 does not count."""
        hidden = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        logits = F.linear(self.norm(self.blocks(hidden)), self.words.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)


def batches(texts: Sequence[Sequence[int]], tokens: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All texts behind one another in random order, cut into rows of the context, `tokens` in a batch."""
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    flat = torch.tensor([i for number in order for i in texts[number]])
    size = max(1, round(tokens / CONTEXT)) * CONTEXT
    for start in range(0, len(flat) - 1, size):
        ids, targets = flat[start : start + size], flat[start + 1 : start + size + 1]
        ids = F.pad(ids, (0, size - len(ids)))
        targets = F.pad(targets, (0, size - len(targets)), value=-1)
        yield ids.view(-1, CONTEXT), targets.view(-1, CONTEXT)


def rates(size: str, texts: Sequence[Sequence[int]], documents: int, epochs: int, lr: float) -> list[float]:
    """Tokens a second of each epoch but the first, with about `documents` documents in an optimizer step."""
    torch.manual_seed(0)
    model = PlainGPT(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    total = sum(map(len, texts))
    found = []
    for epoch in range(epochs):
        start = time.perf_counter()
        for ids, targets in batches(texts, documents * total // len(texts), epoch):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(ids, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        found.append(total / (time.perf_counter() - start))
    return found[1:]
