"""Continuations that begin alike become trees, so that what they share is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from instructgpt.errors import DataError

LEAST_HEAD = 32
"""Tokens that all contexts must share before the shared beginning is kept from pass to pass."""
LONGEST_BEHIND_HEAD = 2048
"""Contexts longer than this are read without a kept beginning: their attention would need too much memory."""
LEAST_SHARED = 8
"""Tokens that two continuations must share before they become one tree."""
MOST_BRANCHES = 1024
"""Tokens of all branches of one tree; attention among them grows with the square."""

Ids: TypeAlias = tuple[int, ...]


@dataclass
class Tree:
    """Continuations with a common stem.

    Attributes:
        stem: ids from the document's first one.
        predicted: ids of the stem before this place are context, the others count for every branch.
        branches: what follows the stem, for each continuation; may be empty for one.
        owners: results that each branch counts for.
    """

    stem: Ids
    predicted: int
    branches: list[Ids] = field(default_factory=list)
    owners: list[list[int]] = field(default_factory=list)

    @property
    def fed(self) -> Ids:
        """Ids of the stem that the model has to read: its last one only if something follows it."""
        return self.stem if any(self.branches) else self.stem[:-1]

    @property
    def tokens(self) -> int:
        """Tokens that the model reads for it: a branch's last id predicts nothing."""
        return len(self.fed) + self.branch_tokens

    @property
    def branch_tokens(self) -> int:
        """Tokens of the branches that the model reads."""
        return sum(max(0, len(branch) - 1) for branch in self.branches)


def cut(pairs: Sequence[tuple[Ids, Ids]], context: int) -> list[tuple[Ids, Ids]]:
    """The pairs without what stands too far back: the last `context` + 1 ids stay (the last is never fed)."""
    kept = []
    for number, (before, after) in enumerate(pairs):
        if not before or not after:
            raise DataError("a context or a continuation has no tokens", f"request {number}")
        if len(after) > context:
            raise DataError(
                f"a continuation of {len(after)} tokens exceeds the model's context of {context}",
                f"request {number}",
                "use a model with a longer context",
            )
        over = len(before) + len(after) - context - 1
        kept.append((before[over:], after) if over > 0 else (before, after))
    return kept


def grow(pairs: Sequence[tuple[Ids, Ids]]) -> list[Tree]:
    """Continuations in trees; those of one context side by side in the order of the alphabet of ids.

    A continuation joins the tree of the one before it when reading the shared tokens once saves more than
    the shorter stem costs the branches that are there already.
    """
    by_context: dict[Ids, dict[Ids, list[int]]] = {}
    for number, (context, continuation) in enumerate(pairs):
        by_context.setdefault(context, {}).setdefault(continuation, []).append(number)
    trees = []
    for context, continuations in by_context.items():
        cluster: list[Ids] = []
        shared = 0  # ids of the stem, the context among them
        for continuation in sorted(continuations):
            if cluster:
                common = len(context) + _common(cluster[0], continuation, shared - len(context))
                loss = (len(cluster) - 1) * (shared - common)
                branch = sum(len(context) + len(member) - common for member in [*cluster, continuation])
                if common < LEAST_SHARED or loss >= common or branch > MOST_BRANCHES:
                    trees.append(_tree(context, cluster, shared, continuations))
                    cluster = []
            shared = common if cluster else len(context) + len(continuation)
            cluster.append(continuation)
        trees.append(_tree(context, cluster, shared, continuations))
    return trees


def _tree(context: Ids, cluster: Sequence[Ids], shared: int, numbers: dict[Ids, list[int]]) -> Tree:
    stem = context + cluster[0][: shared - len(context)]
    branches = [continuation[shared - len(context) :] for continuation in cluster]
    return Tree(stem, len(context), branches, [numbers[continuation] for continuation in cluster])


def _common(first: Ids, second: Ids, limit: int) -> int:
    """How many ids both begin with, at most `limit`."""
    most = min(len(first), len(second), limit)
    return next((i for i in range(most) if first[i] != second[i]), most)


def shared_head(trees: Sequence[Tree]) -> Ids:
    """The ids that all contexts begin with, but for their last one; empty where keeping them does not pay."""
    if len(trees) < 2 or max(len(tree.stem) for tree in trees) > LONGEST_BEHIND_HEAD:
        return ()
    lowest, highest = min(tree.stem for tree in trees), max(tree.stem for tree in trees)
    shortest = min(tree.predicted for tree in trees) - 1
    common = _common(lowest, highest, shortest)
    return lowest[:common] if common >= LEAST_HEAD else ()
