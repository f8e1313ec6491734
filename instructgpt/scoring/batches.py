"""Scores of many sequences in packed micro-batches of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.errors import DataError
from instructgpt.model.heads import ScalarModel

MAX_TOKENS = 8192
"""Tokens in a micro-batch."""


def score_ids(model: ScalarModel, sequences: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS) -> Tensor:
    """Score of each sequence at its last token: (n,) float32 on the CPU, in the order given.

    The cut into micro-batches does not change a score (but for rounding, below 1e-5 in float32).

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
    with torch.inference_mode():
        for batch in plan_batches([len(row) for row in sequences], max_tokens):
            ids, positions, lengths = pack_ids([sequences[i] for i in batch])
            hidden = model(ids.to(device), positions.to(device), lengths)  # (N, D)
            last = torch.tensor(lengths).cumsum(0) - 1
            scores[torch.tensor(batch)] = model.score(hidden[last.to(device)]).cpu()
    return scores
