"""Chance-corrected agreement on single values: Krippendorff's alpha, Gwet's AC1, and raw percent beside them.

Alpha and every kappa look bad on a flag that is hardly ever ticked although labelers nearly always agree
(Feinstein and Cicchetti 1990, "High agreement but low kappa"); AC1 does not, and neither shows by itself what
the raw percent shows. So the three are always given together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import krippendorff
import numpy as np
from numpy.typing import NDArray

from instructgpt.labelling.quality.annotations import Row
from instructgpt.labelling.quality.resampling import Array, Estimate, Resamples, estimate

Level = Literal["nominal", "ordinal"]


@dataclass(frozen=True)
class Counts:
    """How many labelers gave each value to each unit: a reply's rating, its rank, a box beside it.

    Attributes:
        counts: (units, values), values in order.
        clusters: (units,) number of the prompt that the unit belongs to, 0 .. prompts - 1, none left out.
    """

    counts: Array
    clusters: NDArray[np.int64]

    @property
    def compared(self) -> int:
        """Prompts with a unit that two labelers or more judged."""
        return len(np.unique(self.clusters[self.counts.sum(axis=1) > 1]))


def count_values(rows: Iterable[Row], domain: Sequence[Hashable] | None = None) -> Counts:
    """Counts of (item, labeler, value) rows, each item being a unit and a cluster of its own.

    Args:
        rows: a labeler's later value of the same item takes the place of the earlier.
        domain: the values in order; by default the sorted values that occur.
    """
    latest = {(item, labeler): value for item, labeler, value in rows}
    values = list(domain) if domain is not None else sorted(set(latest.values()))  # type: ignore[type-var]
    column = {value: k for k, value in enumerate(values)}
    number = {item: k for k, item in enumerate(dict.fromkeys(item for item, _ in latest))}
    counts = np.zeros((len(number), len(values)))
    for (item, _), value in latest.items():
        counts[number[item], column[value]] += 1
    return Counts(counts, np.arange(len(number)))


def percent_agreement(counts: Counts) -> float:
    """Mean over units of the share of labeler pairs that gave the same value; NaN without any pair."""
    return float(_percent(_gwet_sums(counts).sum(axis=0)))


def krippendorff_alpha(counts: Counts, level: Level) -> float:
    """Krippendorff's alpha, by the `krippendorff` package; NaN if nothing was compared or no value varies.

    Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    compared = counts.counts[counts.counts.sum(axis=1) > 1]
    if np.count_nonzero(compared.sum(axis=0)) < 2:
        return float("nan")
    return float(krippendorff.alpha(value_counts=compared, level_of_measurement=level))


def gwet_ac1(counts: Counts) -> float:
    """Gwet's AC1 for any number of labelers with values missing; NaN if nothing was compared.

    (pa - pe) / (1 - pe), pa the percent agreement and pe = sum of p (1 - p) / (q - 1) over the q values, p a
    value's share, averaged over units (Gwet 2008, British Journal of Mathematical and Statistical Psychology
    61, equations 7 to 9).
    """
    return float(_ac1(_gwet_sums(counts).sum(axis=0)))


def _gwet_sums(counts: Counts) -> Array:
    """Per prompt: sum of pair agreement and of units compared, then units and sums of values' shares."""
    table, prompts = counts.counts, int(counts.clusters.max(initial=-1)) + 1
    judged = table.sum(axis=1)
    compared = judged > 1
    agree = np.zeros(len(table))
    pairs = (judged * (judged - 1))[compared]
    agree[compared] = (table * (table - 1)).sum(axis=1)[compared] / pairs
    shares = table / np.maximum(judged, 1)[:, None]
    columns = [agree, compared.astype(float), (judged > 0).astype(float), *shares.T]
    return np.stack([np.bincount(counts.clusters, column, prompts) for column in columns], axis=1)


def _percent(totals: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(totals[..., 0] / totals[..., 1])


def _ac1(totals: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        share = totals[..., 3:] / totals[..., 2:3]
        chance = (share * (1 - share)).sum(axis=-1) / (share.shape[-1] - 1)
        return np.asarray((_percent(totals) - chance) / (1 - chance))


def coincidences(counts: Counts) -> Array:
    """Krippendorff's coincidences summed by prompt (prompts, values * values)."""
    table, prompts = counts.counts, int(counts.clusters.max(initial=-1)) + 1
    judged = table.sum(axis=1)
    # A unit of m values holds m (m - 1) ordered pairs and weighs m, so each pair weighs 1 / (m - 1).
    weight = np.where(judged > 1, 1.0 / np.maximum(judged - 1, 1), 0.0)
    columns = []
    for i in range(table.shape[1]):
        for j in range(table.shape[1]):
            pairs = table[:, i] * (table[:, j] - (i == j))
            columns.append(np.bincount(counts.clusters, weight * pairs, prompts))
    return np.stack(columns, axis=1)


def alpha_of_coincidences(totals: Array, level: Level) -> Array:
    """Alpha of summed coincidences (..., values * values) -> (...): for resamples, many at a time."""
    values = int(np.sqrt(totals.shape[-1]))
    table = totals.reshape(*totals.shape[:-1], values, values)
    margin = table.sum(axis=-1)
    n = margin.sum(axis=-1)
    if level == "ordinal":
        middle = margin.cumsum(axis=-1) - margin / 2
        distance = (middle[..., :, None] - middle[..., None, :]) ** 2
    else:
        distance = np.broadcast_to(1.0 - np.eye(values), table.shape)
    observed = (table * distance).sum(axis=(-2, -1)) / n
    expected = (margin[..., :, None] * margin[..., None, :] * distance).sum(axis=(-2, -1)) / (n * (n - 1))
    return np.asarray(1.0 - observed / expected)


@dataclass(frozen=True)
class ValueAgreement:
    """Agreement on single values.

    Attributes:
        percent: raw share of labeler pairs that gave the same value.
        alpha: Krippendorff's alpha at `level`.
        ac1: Gwet's AC1 (nominal values only, else None).
        level: "nominal" or "ordinal".
        units: replies that two labelers or more judged.
    """

    percent: Estimate
    alpha: Estimate
    ac1: Estimate | None
    level: Level
    units: int


def value_agreement(counts: Counts, level: Level, resamples: Resamples) -> ValueAgreement:
    """All figures of some counts, with bootstrap intervals over prompts.

    Args:
        counts: of the labelers in question.
        level: how values are measured.
        resamples: over the prompts that `counts.clusters` numbers.
    """
    compared = counts.compared
    gwet = resamples.totals(_padded(_gwet_sums(counts), resamples.clusters))
    pairs = resamples.totals(_padded(coincidences(counts), resamples.clusters))
    return ValueAgreement(
        percent=estimate(percent_agreement(counts), gwet, _percent, compared),
        alpha=estimate(
            krippendorff_alpha(counts, level), pairs, lambda t: alpha_of_coincidences(t, level), compared
        ),
        ac1=estimate(gwet_ac1(counts), gwet, _ac1, compared) if level == "nominal" else None,
        level=level,
        units=int((counts.counts.sum(axis=1) > 1).sum()),
    )


def _padded(sums: Array, prompts: int) -> Array:
    return np.pad(sums, ((0, prompts - len(sums)), (0, 0)))
