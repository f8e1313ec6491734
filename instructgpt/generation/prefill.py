"""Reading prompts into the cache: packed, and what several of them begin with only once.

A system message, solved examples before each question, an earlier turn of a conversation: the tokens that
prompts have in common at their beginning are read into one slot and copied to the others, or copied from a
row that is at work already. Then the rest of each prompt is read behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.generation.shapes import fill_up
from instructgpt.model.cache import KVCache
from instructgpt.model.heads import LanguageModel

SHARED_TOKENS = 64
"""Shorter beginnings are read anew: a second forward pass for what follows would cost more."""

_SCORES = 1 << 22
"""Attention scores of one head that exist at one time: tokens of a pass times tokens that they look at."""
_TOGETHER = 256
"""Prompts that are grouped at a time: the work is the square of it."""

Ids = tuple[int, ...]


@dataclass
class Group:
    """Prompts that begin with the same `length` tokens."""

    length: int
    members: list[int]
    """Their numbers."""
    source: int | None = None
    """Row that holds these tokens already; None: the first member reads them."""


def common(one: Ids, other: Ids) -> int:
    """Tokens that two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def share(prompts: Sequence[Ids], present: Sequence[tuple[int, Ids]], least: int) -> list[Group]:
    """Group prompts by what they begin with, each in one group, so that the most tokens are saved.

    Args:
        present: (row, ids) of what the cache holds already.
        least: tokens in common from which on sharing pays.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    groups: list[Group] = []
    for start in range(0, len(order), _TOGETHER):
        groups += _neighbours(prompts, order[start : start + _TOGETHER], least)
    for group in groups:
        source, length = _longest(prompts[group.members[0]], present)
        alone = len(group.members) == 1
        if source is not None and length >= (least if alone else group.length):
            group.source, group.length = source, length if alone else group.length
    return groups


def _neighbours(prompts: Sequence[Ids], order: Sequence[int], least: int) -> list[Group]:
    """Cut prompts in the order of their tokens, where a common beginning makes neighbours, into groups.

    The best cut of the first n is that of fewer and one group behind it, for the number that saves most.
    """
    same = [common(prompts[one], prompts[other]) for one, other in pairwise(order)]
    saved, begins = [0], [0]
    for end in range(1, len(order) + 1):
        best, begin, shortest = saved[end - 1], end - 1, 0
        for start in range(end - 2, -1, -1):
            shortest = same[start] if start == end - 2 else min(shortest, same[start])
            if shortest < least:
                break
            if (total := saved[start] + shortest * (end - start - 1)) > best:
                best, begin = total, start
        saved.append(best)
        begins.append(begin)
    groups = []
    end = len(order)
    while end:
        begin = begins[end]
        members = list(order[begin:end])
        length = min(same[begin : end - 1], default=len(prompts[members[0]]))
        groups.append(Group(length, members))
        end = begin
    return groups[::-1]


def _longest(prompt: Ids, present: Sequence[tuple[int, Ids]]) -> tuple[int | None, int]:
    """Row that holds most of what a prompt begins with, and how much that is."""
    best: tuple[int | None, int] = (None, 0)
    for row, ids in present:
        # Most texts differ at once; only one that could be better is looked at closely.
        if prompt[: best[1] + 1] == ids[: best[1] + 1] and (length := common(prompt, ids)) > best[1]:
            best = row, length
    return best


class Prefill:
    """Reads prompts into slots of a cache."""

    def __init__(self, model: LanguageModel, cache: KVCache, spare: int | None, budget: int) -> None:
        """Args:
        spare: slot for filling that brings each pass to a round number of tokens (see `shapes`), or None.
        budget: tokens in one forward pass; a longer prompt has one for itself.
        """
        self._model, self._cache, self._spare, self._budget = model, cache, spare, budget

    def few(self, prompts: Sequence[Ids]) -> bool:
        """Whether prompts fit one pass with other rows' next tokens, and are too short to share anything."""
        lengths = [len(ids) for ids in prompts]
        return max(lengths) <= SHARED_TOKENS and sum(lengths) <= self._budget

    def read(
        self, rows: Sequence[int], prompts: Sequence[Ids], present: Sequence[tuple[int, Ids]] = ()
    ) -> None:
        """Read prompts[i] into the empty slot rows[i]; the cache has room for all of them.

        Args:
            present: (row, ids) of other slots: ids that they begin with.
        """
        cache = self._cache
        if max(map(len, prompts), default=0) < SHARED_TOKENS:
            self._append(list(zip(rows, prompts, strict=True)), self._budget)
            return
        groups = share(prompts, present, SHARED_TOKENS)
        heads = [(rows[g.members[0]], prompts[g.members[0]][: g.length]) for g in groups if g.source is None]
        self._append(heads, self._budget)
        tails: list[tuple[int, Ids]] = []
        for group in groups:
            source = rows[group.members[0]] if group.source is None else group.source
            targets = [rows[number] for number in group.members if rows[number] != source]
            if targets:
                cache.move(source, targets)
                # The source may hold more than what they have in common.
                cache.lengths[torch.tensor(targets)] = group.length
            tails += [(rows[number], prompts[number][group.length :]) for number in group.members]
        # What goes behind a cached beginning looks at all of it, so a pass holds less of a long text.
        piece = max(SHARED_TOKENS, _SCORES // max(map(len, prompts)))
        for start in range(0, max(len(ids) for _, ids in tails), piece):
            rest = [(row, ids[start : start + piece]) for row, ids in tails if ids[start:]]
            self._append(rest, min(self._budget, piece))

    def _append(self, texts: Sequence[tuple[int, Ids]], budget: int) -> None:
        """(row, ids) behind what the rows hold, so many tokens in a pass."""
        device = self._cache.keys.device
        for batch in plan_batches([len(ids) for _, ids in texts], budget):
            slots, sequences = [texts[i][0] for i in batch], [texts[i][1] for i in batch]
            if self._spare is not None and (filling := fill_up(sequences, self._cache.capacity)):
                slots.append(self._spare)
                sequences.append(filling)
                self._cache.reset(self._spare)
            ids, positions, lengths = pack_ids(sequences)
            chosen = torch.tensor(slots)
            positions += self._cache.lengths[chosen].repeat_interleave(torch.tensor(lengths))
            self._model(ids.to(device), positions.to(device), lengths, self._cache, chosen)
