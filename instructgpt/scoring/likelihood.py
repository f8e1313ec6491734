"""Next-token loss of sequences under a language model: sum over counted tokens / their number in the step.

Pretraining, instruction tuning with its mix of pretraining text, and the ptx term of PPO-ptx share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instructgpt.data.collate import PackedBatch, pack
from instructgpt.data.packing import plan_batches
from instructgpt.maths.cross_entropy import cross_entropy
from instructgpt.model.heads import LanguageModel
from instructgpt.text.chat import Rendered

MOST_ROWS = 0.75
"""Share of the tokens that count up to which the last layer is computed for these alone."""


def summed_loss(model: LanguageModel, batch: PackedBatch, dtype: torch.dtype, dropout: float = 0.0) -> Tensor:
    """Sum of -log p over the tokens that count, in nats; scalar. Only their rows meet the vocabulary."""
    batch = batch.to(model.unembedding.device)
    rows = batch.train_mask.nonzero().squeeze(1)
    half = dtype != torch.float32
    with torch.autocast(rows.device.type, dtype, enabled=half):
        # Where most tokens count, taking them out costs more than the last layer saves.
        few = 0 < len(rows) < MOST_ROWS * len(batch.ids)
        hidden = model(batch.ids, batch.positions, batch.lengths, dropout=dropout, rows=rows if few else None)
    hidden = hidden if few else hidden.index_select(0, rows)  # (n, D)
    hidden, rounded = (hidden.to(dtype), model.rounded_unembedding(dtype)) if half else (hidden, None)
    targets = batch.target_ids.index_select(0, rows)
    return cross_entropy(hidden, model.unembedding, targets, rounded=rounded)


def all_counted(sequences: Sequence[Sequence[int]]) -> list[Rendered]:
    """Plain text as examples in which every token but a sequence's first is predicted."""
    return [Rendered(list(ids), [True] * len(ids)) for ids in sequences]


def counted(examples: Sequence[Rendered]) -> int:
    """Tokens that count in the loss; a sequence's first token is never predicted."""
    return sum(sum(example.train_mask[1:]) for example in examples)


def accumulate(
    model: LanguageModel,
    examples: Sequence[Rendered],
    weight: float,
    micro_tokens: int,
    dtype: torch.dtype,
    dropout: float = 0.0,
) -> float:
    """Add the gradient of `weight` x the mean loss over all counted tokens to the model's; returns that mean.

    In nats per token, without the weight: sum / count over all examples together, so that the cut into
    micro-batches changes nothing but rounding (field fault 16) - and but for dropout, whose draws follow it.
    """
    count = max(1, counted(examples))
    total = 0.0
    for plan in plan_batches([len(example.ids) for example in examples], micro_tokens):
        loss = summed_loss(model, pack([examples[i] for i in plan]), dtype, dropout) / count
        (weight * loss).backward()
        total += loss.item()
    return total


@torch.no_grad()
def mean_loss(
    model: LanguageModel, examples: Sequence[Rendered], micro_tokens: int, dtype: torch.dtype
) -> float | None:
    """Mean loss over all counted tokens in nats per token, without dropout; None when nothing counts."""
    count = counted(examples)
    if not count:
        return None
    total = 0.0
    for plan in plan_batches([len(example.ids) for example in examples], micro_tokens):
        total += summed_loss(model, pack([examples[i] for i in plan]), dtype).item()
    return total / count
