"""Agreement of rankings: pairs of replies that two labelers put in the same order, and Kendall's tau-b.

Two labelers and one prompt give one row of counts; every figure here is a ratio of sums of such rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from instructgpt.labelling.quality.annotations import Annotation
from instructgpt.labelling.quality.resampling import Array, Estimate, Resamples, estimate

COLUMNS = ("same", "opposite", "tied", "tau", "taus")
"""Of two labelers on one prompt: pairs of replies in the same order, in opposite orders, tied by one or both;
tau-b and 1, or 0 and 0 where tau-b is not defined."""


def signs(ranks: Mapping[str, int], replies: Sequence[str]) -> NDArray[np.int8]:
    """For every pair of `replies` (K (K - 1) / 2,): 1 if the second is ranked better, -1 worse, 0 tied."""
    values = np.array([ranks[reply] for reply in replies])
    first, second = np.triu_indices(len(replies), 1)
    return np.sign(values[first] - values[second]).astype(np.int8)


def kendall_tau(ours: NDArray[np.int8], theirs: NDArray[np.int8]) -> float:
    """Kendall's tau-b of two rankings given as `signs`; NaN if one of them ties everything.

    (concordant - discordant) / sqrt(pairs that we don't tie * pairs that they don't tie): Kendall 1945, "The
    treatment of ties in ranking problems".
    """
    product = ours.astype(np.int64) * theirs
    untied = np.count_nonzero(ours) * np.count_nonzero(theirs)
    return float(product.sum() / np.sqrt(untied)) if untied else float("nan")


@dataclass(frozen=True)
class PairTable:
    """One row for every two labelers who ranked the same replies of one prompt.

    Attributes:
        items: (rows,) number of the prompt, 0 .. prompts - 1.
        labelers: (rows, 2) numbers of the two labelers.
        counts: (rows, 5), see `COLUMNS`.
    """

    items: NDArray[np.int64]
    labelers: NDArray[np.int64]
    counts: Array

    @classmethod
    def of(
        cls, annotations: Sequence[Annotation], items: Mapping[str, int], labelers: Mapping[str, int]
    ) -> PairTable:
        """The table of all rankings among `annotations`.

        Args:
            annotations: in any order; two annotations of one labeler about one item are not compared.
            items, labelers: numbers of the ids.
        """
        by_item: dict[str, list[Annotation]] = {}
        for annotation in annotations:
            if annotation.ranks:
                by_item.setdefault(annotation.item, []).append(annotation)
        where, who, counts = [], [], []
        for item, found in by_item.items():
            order: dict[tuple[str, ...], list[NDArray[np.int8]]] = {}
            for a, b in combinations(range(len(found)), 2):
                ours, theirs = found[a], found[b]
                common = tuple(sorted(ours.ranks.keys() & theirs.ranks.keys()))
                if ours.labeler == theirs.labeler or len(common) < 2:
                    continue
                if common not in order:
                    # All annotations of the item that hold these replies at once; the others' rows go unread.
                    order[common] = [
                        signs(j.ranks, common) if j.ranks.keys() >= set(common) else np.zeros(0, np.int8)
                        for j in found
                    ]
                where.append(items[item])
                who.append((labelers[ours.labeler], labelers[theirs.labeler]))
                counts.append(_counts(order[common][a], order[common][b]))
        return cls(
            np.array(where, dtype=np.int64),
            np.array(who, dtype=np.int64).reshape(-1, 2),
            np.array(counts, dtype=np.float64).reshape(-1, len(COLUMNS)),
        )

    def among(self, labelers: Sequence[int]) -> PairTable:
        """Rows whose two labelers are both among these."""
        known = np.isin(self.labelers, list(labelers))
        return self._rows(known[:, 0] & known[:, 1])

    def with_one(self, labeler: int, others: Sequence[int]) -> PairTable:
        """Rows of this labeler beside one of `others`."""
        ours = self.labelers == labeler
        theirs = np.isin(self.labelers, [other for other in others if other != labeler])
        return self._rows((ours[:, 0] & theirs[:, 1]) | (ours[:, 1] & theirs[:, 0]))

    def sums(self, items: int) -> Array:
        """Counts summed by prompt (items, 5)."""
        columns = [np.bincount(self.items, self.counts[:, k], items) for k in range(len(COLUMNS))]
        return np.stack(columns, axis=1)

    def _rows(self, mask: NDArray[np.bool_]) -> PairTable:
        return PairTable(self.items[mask], self.labelers[mask], self.counts[mask])


def _counts(ours: NDArray[np.int8], theirs: NDArray[np.int8]) -> tuple[float, ...]:
    product = ours * theirs
    same, opposite = int(np.count_nonzero(product > 0)), int(np.count_nonzero(product < 0))
    tau = kendall_tau(ours, theirs)
    tied = product.size - same - opposite
    return same, opposite, tied, *((0.0, 0.0) if np.isnan(tau) else (tau, 1.0))


def agreement_untied(totals: Array) -> Array:
    """Share of pairs in the same order among pairs that neither labeler tied; totals (..., 5) -> (...)."""
    return totals[..., 0] / (totals[..., 0] + totals[..., 1])


def agreement_ties_half(totals: Array) -> Array:
    """Share of all pairs in the same order, a pair that one or both tied counting half (a coin's toss)."""
    return (totals[..., 0] + 0.5 * totals[..., 2]) / totals[..., :3].sum(axis=-1)


def mean_tau(totals: Array) -> Array:
    """Mean of tau-b over prompts and pairs of labelers where it is defined."""
    return totals[..., 3] / totals[..., 4]


def tie_share(totals: Array) -> Array:
    """Share of pairs that one or both of two labelers tied."""
    return totals[..., 2] / totals[..., :3].sum(axis=-1)


@dataclass(frozen=True)
class RankingAgreement:
    """How far rankings agree.

    Attributes:
        untied: share of pairs in the same order, of the pairs that neither labeler tied. This is what is
            compared with the paper's 72.6 +- 1.5 % (section 3.4), which does not say what it does with ties.
        ties_half: the same over all pairs, a pair that either tied counting half.
        tau: mean Kendall's tau-b.
        tied: share of pairs that one or both tied.
        pairs: pairs of replies times pairs of labelers, ties among them.
    """

    untied: Estimate
    ties_half: Estimate
    tau: Estimate
    tied: float | None
    pairs: int


def ranking_agreement(table: PairTable, seed: int = 0) -> RankingAgreement:
    """Figures of a table with bootstrap intervals over prompts.

    Args:
        table: rows of the labelers in question.
        seed: draws the resamples.
    """
    present, numbers = np.unique(table.items, return_inverse=True)
    sums = PairTable(numbers.astype(np.int64), table.labelers, table.counts).sums(len(present))
    resampled = Resamples(len(present), seed).totals(sums)
    whole = sums.sum(axis=0)
    overlap = len(present)
    with np.errstate(divide="ignore", invalid="ignore"):
        untied, ties_half, tau = (
            estimate(float(statistic(whole)), resampled, statistic, overlap)
            for statistic in (agreement_untied, agreement_ties_half, mean_tau)
        )
        tied = float(tie_share(whole))
    return RankingAgreement(
        untied, ties_half, tau, tied=None if np.isnan(tied) else tied, pairs=int(whole[:3].sum())
    )
