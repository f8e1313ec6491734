"""Sequences -> packed tensors: one long row without padding, and the lengths that cut it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from instructgpt.text.chat import Rendered


@dataclass(frozen=True)
class PackedBatch:
    """Documents one after the other, N tokens in all; no document sees another.

    Attributes:
        ids: (N,) int64.
        positions: (N,) int64, from 0 in each document.
        lengths: tokens of each document, summing to N.
        target_ids: (N,) int64, the next id of the same document; at a document's last token its own id, not
            used.
        train_mask: (N,) bool, whether the target counts; never at a document's last token.
    """

    ids: Tensor
    positions: Tensor
    lengths: list[int]
    target_ids: Tensor
    train_mask: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        return PackedBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths,
            target_ids=self.target_ids.to(device),
            train_mask=self.train_mask.to(device),
        )


def pack_ids(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, list[int]]:
    """Ids (N,) int64, positions (N,) int64 and lengths of sequences put one after the other."""
    lengths = [len(sequence) for sequence in sequences]
    total = sum(lengths)
    ids = torch.from_numpy(np.fromiter(chain.from_iterable(sequences), np.int64, total))
    counts = torch.tensor(lengths, dtype=torch.int64)
    starts = counts.cumsum(0) - counts
    return ids, torch.arange(total) - starts.repeat_interleave(counts), lengths


def pack(sequences: Sequence[Rendered]) -> PackedBatch:
    """Rendered conversations as one batch, targets shifted inside each of them."""
    ids, positions, lengths = pack_ids([sequence.ids for sequence in sequences])
    counts = torch.tensor(
        [value for sequence in sequences for value in sequence.train_mask], dtype=torch.bool
    )
    last = torch.zeros(len(ids), dtype=torch.bool)
    if lengths:
        ends = torch.tensor(lengths).cumsum(0) - 1
        last[ends[torch.tensor(lengths) > 0]] = True
    # The next id may be another document's; there, at a document's last token, nothing is predicted.
    target_ids = torch.where(last, ids, ids.roll(-1))
    train_mask = counts.roll(-1) & ~last
    return PackedBatch(ids, positions, lengths, target_ids, train_mask)
