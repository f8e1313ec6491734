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


WORTH_SHARING = 0.1
"""Sequences that start alike share their beginning where this share of their tokens is saved by it."""


@dataclass(frozen=True)
class SharedBatch:
    """Sequences of which those of one group have their common beginning only once; N tokens are left.

    The beginnings come first, those with most sequences before the others; then what each sequence has of
    its own. A sequence that shares nothing is a beginning from which nothing goes on.

    Attributes:
        ids: (N,) int64.
        positions: (N,) int64, from 0 in each sequence.
        lengths: tokens of each beginning, then of each rest, summing to N.
        branches: how many rests go on from each beginning, not increasing.
        ends: (n,) int64, place of each sequence's last token, in the order that they were given.
    """

    ids: Tensor
    positions: Tensor
    lengths: list[int]
    branches: list[int]
    ends: Tensor

    def to(self, device: torch.device | str) -> SharedBatch:
        """The same batch on another device."""
        return SharedBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            lengths=self.lengths,
            branches=self.branches,
            ends=self.ends.to(device),
        )


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of the beginning that these sequences share, if it is worth it, else 0.

    The last token of each always remains its own, so that it can be told apart and read.
    """
    if len(sequences) < 2:
        return 0
    first, last = min(sequences, key=tuple), max(sequences, key=tuple)  # what these two share, all share
    most = min(map(len, sequences)) - 1
    length = next((i for i in range(most) if first[i] != last[i]), most)
    saved = (len(sequences) - 1) * length
    return length if saved > WORTH_SHARING * sum(map(len, sequences)) else 0


def pack_shared(groups: Sequence[Sequence[Sequence[int]]]) -> SharedBatch:
    """Groups of sequences, such as a prompt with each of its replies, as one batch."""
    beginnings: list[Sequence[int]] = []
    rests: list[list[Sequence[int]]] = []
    places: list[list[int]] = []  # of each beginning: its sequences, as they were given
    given = 0
    for group in groups:
        length = shared_length(group)
        numbers = list(range(given, given + len(group)))
        given += len(group)
        if length:
            beginnings.append(group[0][:length])
            rests.append([sequence[length:] for sequence in group])
            places.append(numbers)
        else:
            beginnings += group
            rests += [[] for _ in group]
            places += [[number] for number in numbers]
    order = sorted(range(len(beginnings)), key=lambda i: -len(rests[i]))
    documents = [beginnings[i] for i in order] + [rest for i in order for rest in rests[i]]
    ids, positions, lengths = pack_ids(documents)
    shift = [0] * len(order) + [len(beginnings[i]) for i in order for _ in rests[i]]
    counts = torch.tensor(lengths, dtype=torch.int64)
    positions = positions + torch.tensor(shift, dtype=torch.int64).repeat_interleave(counts)
    last = counts.cumsum(0) - 1
    ends = torch.empty(given, dtype=torch.int64)
    alone = [rank for rank, i in enumerate(order) if not rests[i]]
    ends[[places[order[rank]][0] for rank in alone]] = last[alone]
    ends[[number for i in order if rests[i] for number in places[i]]] = last[len(order) :]
    return SharedBatch(ids, positions, lengths, [len(rests[i]) for i in order], ends)
