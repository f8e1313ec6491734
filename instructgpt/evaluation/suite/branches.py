"""Log-probabilities of many continuations, with what they share read once.

The choices of one question share its context, questions of one task share their solved examples, and two
sentences that differ in a word share their beginning. Continuations with a common stem become a tree: the
stem's tokens go into a row of the key/value cache, then the branches behind one another, where a mask lets
each see the stem and itself alone, at the positions that it would have by itself. So a question costs its
context once, and only rows that predict something meet the vocabulary.

Legend: R rows, T cached positions looked at, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.evaluation.suite.task import Likelihood
from instructgpt.evaluation.suite.trees import Ids, Tree, cut, grow, shared_head
from instructgpt.generation.engine import rows_for_memory
from instructgpt.model.cache import CachePlan, KVCache
from instructgpt.model.heads import LanguageModel

MAX_TOKENS = 2048
"""Tokens in one forward pass."""
CACHE_BYTES = 1 << 28
"""Memory for the keys and values of one pass."""
LOGITS = 1 << 23
"""Logits that exist at one time."""


class _TreeCache(KVCache):
    """A key/value cache whose rows may be given several branches at once, which do not see one another."""

    branches: Sequence[Sequence[int]] | None = None
    """Lengths of the branches that the next pass appends to each row; None: one text a row."""

    def plan(self, lengths: Sequence[int], slots: Tensor | None, fresh: int = 0) -> CachePlan:
        """As the cache's own plan, with branches hidden from each other."""
        plan = super().plan(lengths, slots, fresh)
        if self.branches is None or max(lengths) == 1:
            return plan
        before = self.lengths[: len(lengths)] if slots is None else self.lengths[slots]
        new = max(lengths)
        # The place in its row where each new token's branch begins; filling sees everything.
        starts = torch.zeros(len(lengths), new, dtype=torch.int64)
        for row, sizes in enumerate(self.branches):
            at = torch.tensor(sizes, dtype=torch.int64)
            begins = int(before[row]) + at.cumsum(0) - at
            starts[row, : lengths[row]] = begins.repeat_interleave(at)
        place = torch.arange(plan.first, plan.seen)  # (T,)
        own = before[:, None] + torch.arange(new)  # (R, new): the token's own place
        stem = place < before[:, None, None]  # (R, 1, T)
        behind = (place >= starts[:, :, None]) & (place <= own[:, :, None])  # (R, new, T)
        seen = stem | behind
        if self.window is not None:
            position = before[:, None] + own - starts  # (R, new)
            of_key = torch.where(stem, place, before[:, None, None] + place - starts[:, :, None])
            seen &= of_key > position[:, :, None] - self.window
        hidden = ~seen
        bias = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=self.keys.device)
        bias.masked_fill_(hidden.to(bias.device), float("-inf"))
        return replace(plan, bias=bias[:, None], empty=False)


@dataclass
class _Sums:
    """Results so far, one a continuation."""

    nats: Tensor  # (n,) float64
    misses: Tensor  # (n,) int64: tokens that are not the most probable ones


@dataclass
class _Picks:
    """Which hidden rows predict which ids for which results; three lists of like length, rows ascending."""

    rows: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    def add(self, row: int, index: int, owners: Sequence[int]) -> None:
        """Row `row` predicts id `index` for these results."""
        self.rows += [row] * len(owners)
        self.ids += [index] * len(owners)
        self.owners += owners


@torch.inference_mode()
def likelihoods(
    model: LanguageModel,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    context: int = 0,
    max_tokens: int = MAX_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """What the model thinks of each continuation after its context, both as ids.

    What is too long for the model's context loses its beginning.

    Args:
        pairs: (context, continuation), each at least one id.
        context: tokens that the model may see at once; 0 = as many as it can.
        max_tokens: in one forward pass; more for a text that is longer by itself.
        on_done: called with the number of continuations that a pass has finished.

    Raises:
        DataError: a continuation alone is longer than the model's context, or one of the two is empty.
    """
    planned = grow(cut(pairs, context or model.config.context))
    sums = _Sums(torch.zeros(len(pairs), dtype=torch.float64), torch.zeros(len(pairs), dtype=torch.int64))
    head = shared_head(planned)
    reader = _Reader(model, head, sums)
    single = [tree for tree in planned if not head and not tree.branch_tokens]
    several = [tree for tree in planned if head or tree.branch_tokens]
    for batch in plan_batches([len(tree.fed) for tree in single], max_tokens):
        reader.read_single([single[i] for i in batch])
        _report([single[i] for i in batch], on_done)
    for batch in plan_batches([tree.tokens - len(head) for tree in several], max_tokens):
        trees = [several[i] for i in batch]
        rows = reader.rows(trees)
        for start in range(0, len(trees), rows):
            reader.read_trees(trees[start : start + rows])
            _report(trees[start : start + rows], on_done)
    return [
        Likelihood(nats, len(continuation), misses == 0)
        for nats, misses, (_, continuation) in zip(
            sums.nats.tolist(), sums.misses.tolist(), pairs, strict=True
        )
    ]


def _report(trees: Sequence[Tree], on_done: Callable[[int], None] | None) -> None:
    if on_done is not None:
        on_done(sum(len(owners) for tree in trees for owners in tree.owners))


class _Reader:
    """Forward passes over trees; adds what they say to `sums`."""

    def __init__(self, model: LanguageModel, head: Ids, sums: _Sums) -> None:
        self._model, self._head, self._sums = model, head, sums
        self._device = model.unembedding.device
        self._cache: _TreeCache | None = None

    def read_single(self, trees: Sequence[Tree]) -> None:
        """Trees without branches to read: one packed pass, no cache."""
        hidden, starts = self._pass([tree.fed for tree in trees], [0] * len(trees), None)
        picks = _Picks()
        for tree, start in zip(trees, starts, strict=True):
            _pick_stem(picks, tree, start, 0)
        self._add(hidden, picks)

    def read_trees(self, trees: Sequence[Tree]) -> None:
        """Trees with branches, or behind the kept head: first the stems, then the branches of all rows."""
        cache, head = self._cache, len(self._head)
        assert cache is not None, "rows() makes the cache"
        cache.lengths[:] = head
        picks = _Picks()
        stems = [tree.fed[head:] for tree in trees]
        hidden, starts = self._pass(stems, [head] * len(trees), cache)
        for tree, start in zip(trees, starts, strict=True):
            _pick_stem(picks, tree, start, head)
        self._add(hidden, picks)
        longer = [row for row, tree in enumerate(trees) if tree.branch_tokens]
        if not longer:
            return
        fed = [[branch[:-1] for branch in trees[row].branches if len(branch) > 1] for row in longer]
        cache.branches = [[len(ids) for ids in branches] for branches in fed]
        hidden, starts = self._branches([trees[row] for row in longer], fed, cache, torch.tensor(longer))
        cache.branches = None
        picks = _Picks()
        for row, start in zip(longer, starts, strict=True):
            for branch, owners in zip(trees[row].branches, trees[row].owners, strict=True):
                for place, index in enumerate(branch[1:]):
                    picks.add(start + place, index, owners)
                start += max(0, len(branch) - 1)
        self._add(hidden, picks)

    def _pass(
        self, sequences: Sequence[Ids], firsts: Sequence[int], cache: _TreeCache | None
    ) -> tuple[Tensor, list[int]]:
        """Hidden rows (N, D) of sequences whose first ids stand at positions `firsts`, and where each
        begins."""
        ids, positions, lengths = pack_ids(sequences)
        before = torch.tensor(firsts).repeat_interleave(torch.tensor(lengths))
        hidden = self._model(ids.to(self._device), (positions + before).to(self._device), lengths, cache)
        return hidden, _starts(lengths)

    def _branches(
        self, trees: Sequence[Tree], fed: Sequence[Sequence[Ids]], cache: _TreeCache, slots: Tensor
    ) -> tuple[Tensor, list[int]]:
        """Hidden rows of all branches, tree by tree, and where each tree's begin."""
        flat = [ids for branches in fed for ids in branches]
        ids, positions, _ = pack_ids(flat)
        sizes = [sum(map(len, branches)) for branches in fed]
        stems = torch.tensor([len(tree.stem) for tree in trees]).repeat_interleave(torch.tensor(sizes))
        places = (positions + stems).to(self._device)
        return self._model(ids.to(self._device), places, sizes, cache, slots), _starts(sizes)

    def rows(self, trees: Sequence[Tree]) -> int:
        """How many of these trees may be read at a time: as many as the memory for keys and values holds.

        Shorter trees would allow more rows than the cache has; it is made anew only for twice as many.
        """
        longest = max(tree.tokens for tree in trees)
        wanted = min(2 * len(trees), rows_for_memory(self._model, longest, CACHE_BYTES))
        cache = self._cache
        if cache is None or cache.capacity < longest or cache.slots * 2 <= wanted:
            self._cache = cache = self._new_cache(wanted, longest)
        return cache.slots

    def _new_cache(self, rows: int, tokens: int) -> _TreeCache:
        """A cache of so many rows, each of which begins with the head."""
        config, weight = self._model.config, self._model.unembedding
        cache = _TreeCache(config, rows, tokens, weight.dtype, weight.device)
        if self._head:
            self._pass([self._head], [0], cache)
            if rows > 1:
                cache.move([0], list(range(1, rows)))
        return cache

    def _add(self, hidden: Tensor, picks: _Picks) -> None:
        """Let the picked rows (n, D) meet the vocabulary, `LOGITS` numbers at a time."""
        if not picks.rows:
            return
        rows, inverse = torch.tensor(picks.rows).unique(return_inverse=True)  # sorted, as picks are
        ids, owners = torch.tensor(picks.ids), torch.tensor(picks.owners)
        step = max(1, LOGITS // self._model.config.vocab_size)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            logits = self._model.logits(hidden[chosen.to(self._device)]).float()  # (n, V)
            here = (inverse >= start) & (inverse < start + step)
            place, index = (inverse[here] - start).to(self._device), ids[here].to(self._device)
            nats = logits[place, index] - logits.logsumexp(1)[place]
            missed = logits.argmax(1)[place] != index
            self._sums.nats.index_add_(0, owners[here], nats.double().cpu())
            self._sums.misses.index_add_(0, owners[here], missed.long().cpu())


def _starts(lengths: Sequence[int]) -> list[int]:
    total, starts = 0, []
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def _pick_stem(picks: _Picks, tree: Tree, start: int, head: int) -> None:
    """Predictions inside a stem and at its end; position p of the text is row start + p - head."""
    everyone = [owner for owners in tree.owners for owner in owners]
    for place in range(tree.predicted, len(tree.stem)):
        picks.add(start + place - 1 - head, tree.stem[place], everyone)
    last = start + len(tree.stem) - 1 - head
    for branch, owners in zip(tree.branches, tree.owners, strict=True):
        if branch:
            picks.add(last, branch[0], owners)
