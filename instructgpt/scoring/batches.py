"""Scores of many sequences in packed micro-batches of like length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from instructgpt.data.collate import SharedBatch, pack_shared, shared_length
from instructgpt.data.packing import plan_batches
from instructgpt.errors import DataError
from instructgpt.model.heads import ScalarModel
from instructgpt.runtime.flops import forward_flops
from instructgpt.runtime.profile import work

MAX_TOKENS = 8192
"""Tokens in a micro-batch."""


def score_ids(model: ScalarModel, sequences: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS) -> Tensor:
    """Score of each sequence at its last token: (n,) float32 on the CPU, in the order given.

    Neighbours that start alike, as the replies to one prompt do, have their common beginning computed once.
    Neither that nor the cut into micro-batches changes a score (but for rounding, below 1e-5 in float32).

    Raises:
        DataError: a sequence is empty or longer than the model's context.
    """
    context = model.config.context
    for index, row in enumerate(sequences):
        if not 0 < len(row) <= context:
            raise DataError(
                f"a sequence of {len(row)} tokens can't be scored: the reward model reads 1 to {context}",
                where=f"sequence {index}",
                cure="shorten the prompt or the reply, or use a reward model with a longer context",
            )
    scores = torch.empty(len(sequences), dtype=torch.float32)
    device = model.head.weight.device
    groups = neighbours(sequences, max_tokens)
    with torch.inference_mode():
        for batch in plan_batches([_computed(sequences, group) for group in groups], max_tokens):
            chosen = [groups[i] for i in batch]
            packed = pack_shared([[sequences[i] for i in group] for group in chosen]).to(device)
            hidden = last_hidden(model, packed)  # (n, D)
            work(forward_flops(model, len(packed.ids), len(packed.ends)))
            with torch.autocast(device.type, enabled=False):
                found = model.score(hidden)
            scores[torch.tensor([i for group in chosen for i in group])] = found.cpu()
    return scores


def last_hidden(model: ScalarModel, batch: SharedBatch) -> Tensor:
    """Hidden states (n, D) at the last token of each sequence."""
    branches = batch.branches if any(batch.branches) else None
    hidden: Tensor = model(batch.ids, batch.positions, batch.lengths, rows=batch.ends, branches=branches)
    return hidden


def neighbours(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Cut places 0, 1, ... into groups of neighbours that are worth computing together.

    Sequences are of one group while more than half of each starts as the one before it; a group holds at most
    about `max_tokens` tokens.
    """
    groups: list[list[int]] = [[0]] if sequences else []
    tokens = len(sequences[0]) if sequences else 0
    for number, (one, other) in enumerate(pairwise(sequences), start=1):
        half = min(len(one), len(other)) // 2
        tokens += len(other)
        if list(one[:half]) == list(other[:half]) and tokens <= max_tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
            tokens = len(other)
    return groups


def _computed(sequences: Sequence[Sequence[int]], group: Sequence[int]) -> int:
    """Tokens of a group, what they share counted once."""
    members = [sequences[i] for i in group]
    return sum(map(len, members)) - (len(members) - 1) * shared_length(members)
