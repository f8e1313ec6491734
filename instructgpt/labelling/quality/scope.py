"""Agreement within one set of labelers: everybody, a group, or one labeler beside each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from instructgpt.labelling.quality.annotations import Annotation
from instructgpt.labelling.quality.coefficients import Counts, ValueAgreement, value_agreement
from instructgpt.labelling.quality.pairs import PairTable, RankingAgreement, ranking_agreement
from instructgpt.labelling.quality.resampling import Array, Resamples

_Flag = tuple[Literal["reply", "prompt"], str]


@dataclass(frozen=True)
class FlagAgreement:
    """Agreement on one flag.

    Attributes:
        flag: its name.
        about: "reply" or "prompt": what it is ticked for.
        ticked: share of all boxes of this flag that were ticked.
        boxes: number of boxes: replies (or prompts) times labelers.
        agreement: raw percent, alpha and AC1 side by side.
    """

    flag: str
    about: Literal["reply", "prompt"]
    ticked: float | None
    boxes: int
    agreement: ValueAgreement


@dataclass(frozen=True)
class Agreement:
    """How far some labelers agree with one another.

    Attributes:
        rankings: pairs in the same order and tau-b.
        ranks: ordinal alpha of the ranks themselves.
        ratings: ordinal alpha of the 1-7 ratings.
        flags: one entry for each flag.
    """

    rankings: RankingAgreement
    ranks: ValueAgreement
    ratings: ValueAgreement
    flags: tuple[FlagAgreement, ...]


@dataclass(frozen=True)
class Values:
    """Single values that labelers gave to replies, as columns.

    Attributes:
        domain: number of possible values.
        items, units, labelers, values: (rows,) numbers of prompt, reply, labeler and value.
    """

    domain: int
    items: NDArray[np.int64]
    units: NDArray[np.int64]
    labelers: NDArray[np.int64]
    values: NDArray[np.int64]

    def among(self, labelers: Sequence[int]) -> Counts:
        """Counts of the values that these labelers gave."""
        mask = np.isin(self.labelers, list(labelers))
        units, numbers = np.unique(self.units[mask], return_inverse=True)
        counts = np.zeros((len(units), self.domain))
        np.add.at(counts, (numbers, self.values[mask]), 1)
        items = np.zeros(len(units), dtype=np.int64)
        items[numbers] = self.items[mask]
        return Counts(counts, items)

    def with_one(self, labeler: int, others: Sequence[int]) -> Counts:
        """Counts of one unit of two values for each other labeler of each reply that `labeler` judged.

        So the figures are those of two coders, the labeler and "another labeler".
        """
        ours = self.labelers == labeler
        value_of = dict(zip(self.units[ours].tolist(), self.values[ours].tolist(), strict=True))
        mask = np.isin(self.labelers, [other for other in others if other != labeler])
        mask &= np.isin(self.units, self.units[ours])
        mine = np.array([value_of[unit] for unit in self.units[mask].tolist()], dtype=np.int64)
        counts = np.zeros((int(mask.sum()), self.domain))
        rows = np.arange(len(counts))
        np.add.at(counts, (rows, mine), 1)
        np.add.at(counts, (rows, self.values[mask]), 1)
        return Counts(counts, self.items[mask])


class Material:
    """All annotations of a project in columns, from which the agreement of any labelers is taken.

    Args:
        annotations: at most one for each item and labeler; of several the last counts.
        flags, prompt_flags: names of the flags that could be ticked for replies and for prompts.
        seed: draws the resamples.
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        flags: Sequence[str] = (),
        prompt_flags: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        latest = list({(a.item, a.labeler): a for a in annotations}.values())
        self.seed = seed
        self.items = {item: n for n, item in enumerate(dict.fromkeys(a.item for a in latest))}
        self.labelers = {who: n for n, who in enumerate(dict.fromkeys(a.labeler for a in latest))}
        self.pairs = PairTable.of(latest, self.items, self.labelers)
        self.ranks = self._values(latest, [a.ranks for a in latest], 0)
        self.ratings = self._values(latest, [a.ratings for a in latest], 8)
        self.flags: dict[_Flag, Values] = {}
        for flag in flags:
            given = [{reply: flag in ticked for reply, ticked in a.flags.items()} for a in latest]
            self.flags["reply", flag] = self._values(latest, given, 2)
        for flag in prompt_flags:
            given = [{} if a.prompt_flags is None else {"": flag in a.prompt_flags} for a in latest]
            self.flags["prompt", flag] = self._values(latest, given, 2)

    def _values(
        self, annotations: Sequence[Annotation], values: Sequence[Mapping[str, int]], domain: int
    ) -> Values:
        units: dict[tuple[str, str], int] = {}
        rows = [
            (
                self.items[annotation.item],
                units.setdefault((annotation.item, reply), len(units)),
                self.labelers[annotation.labeler],
                int(value),
            )
            for annotation, given in zip(annotations, values, strict=True)
            for reply, value in given.items()
        ]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return Values(max(domain, int(columns[:, 3].max(initial=1)) + 1), *columns.T)

    def among(self, labelers: Sequence[str]) -> Agreement:
        """Agreement of these labelers with one another."""
        numbers = [self.labelers[who] for who in labelers if who in self.labelers]
        return self._agreement(
            self.pairs.among(numbers),
            self.ranks.among(numbers),
            self.ratings.among(numbers),
            {
                key: (values.values[np.isin(values.labelers, numbers)], values.among(numbers))
                for key, values in self.flags.items()
            },
        )

    def with_one(self, labeler: str, others: Sequence[str]) -> Agreement:
        """Agreement of one labeler with each of the others; `ticked` and `boxes` are the labeler's own."""
        one = self.labelers.get(labeler, -1)
        numbers = [self.labelers[who] for who in others if who in self.labelers]
        return self._agreement(
            self.pairs.with_one(one, numbers),
            self.ranks.with_one(one, numbers),
            self.ratings.with_one(one, numbers),
            {
                key: (values.values[values.labelers == one], values.with_one(one, numbers))
                for key, values in self.flags.items()
            },
        )

    def _agreement(
        self,
        pairs: PairTable,
        ranks: Counts,
        ratings: Counts,
        flags: Mapping[_Flag, tuple[NDArray[np.int64], Counts]],
    ) -> Agreement:
        tables = [ranks, ratings, *(counts for _, counts in flags.values())]
        present = np.unique(np.concatenate([table.clusters for table in tables]))
        number = np.zeros(len(self.items), dtype=np.int64)
        number[present] = np.arange(len(present))
        resamples = Resamples(len(present), self.seed)

        def numbered(table: Counts) -> Counts:
            return Counts(table.counts, number[table.clusters])

        return Agreement(
            rankings=ranking_agreement(pairs, self.seed),
            ranks=value_agreement(numbered(ranks), "ordinal", resamples),
            ratings=value_agreement(numbered(ratings), "ordinal", resamples),
            flags=tuple(
                FlagAgreement(
                    flag,
                    about,
                    float(boxes.mean()) if boxes.size else None,
                    int(boxes.size),
                    value_agreement(numbered(counts), "nominal", resamples),
                )
                for (about, flag), (boxes, counts) in flags.items()
            ),
        )

    def matrix(self, labelers: Sequence[str]) -> tuple[tuple[float | None, ...], ...]:
        """Untied agreement of every two of `labelers` (n, n); None where they have no untied pair."""
        n = len(labelers)
        place = {self.labelers[who]: k for k, who in enumerate(labelers) if who in self.labelers}
        same, opposite = np.zeros((n, n)), np.zeros((n, n))
        for (a, b), counts in zip(self.pairs.labelers.tolist(), self.pairs.counts, strict=True):
            if a in place and b in place:
                for i, j in ((place[a], place[b]), (place[b], place[a])):
                    same[i, j] += counts[0]
                    opposite[i, j] += counts[1]
        untied = same + opposite
        share: Array = same / np.maximum(untied, 1)
        return tuple(tuple(float(share[i, j]) if untied[i, j] else None for j in range(n)) for i in range(n))
