"""From the numbers of items to the numbers of a task, with intervals; and the difference of two models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instructgpt.errors import DataError
from instructgpt.evaluation.statistics import LEVEL, Estimate
from instructgpt.evaluation.suite.task import Array, Metric
from instructgpt.runtime.seeds import derive_seed

DRAWS = 1000

Record = Mapping[str, Any]
"""A line of a results file: `id`, `group`, `scores`, `shown`."""


def columns(records: Sequence[Record]) -> dict[str, Array]:
    """The scores of items as columns, each (n,) float64, NaN where an item lacks one."""
    names = {name: None for record in records for name in record["scores"]}  # in order of appearance
    return {
        name: np.array([record["scores"].get(name, math.nan) for record in records], dtype=np.float64)
        for name in names
    }


def estimate(
    metric: Metric, records: Sequence[Record], seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> Estimate:
    """The metric over all items, with the percentile bootstrap interval over groups of items.

    Groups are drawn again with replacement, each with all its items (Efron and Tibshirani 1993, chapters 8
    and 13). Without an interval (`Metric.interval`) both ends are NaN; so they are where a resample never
    gives a number.

    Raises:
        DataError: there are no records.
    """
    found = columns(records)
    value = _value(metric, found, len(records))
    if not metric.interval:
        return Estimate(value, math.nan, math.nan, len(records))
    low, high = _interval(_resampled(metric, [found], records, seed, draws)[0], level)
    return Estimate(value, low, high, len(records))


def difference(
    metric: Metric,
    ours: Sequence[Record],
    theirs: Sequence[Record],
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """The metric of one model minus that of another on the same items, paired: the same resamples for both.

    Raises:
        DataError: there are no records, or the two do not have the same items.
    """
    other = {str(record["id"]): record for record in theirs}
    missing = [str(record["id"]) for record in ours if str(record["id"]) not in other]
    if missing or len(ours) != len(other) or len(theirs) != len(other):
        named = f"{missing[0]!r} is on one side only" if missing else f"{len(ours)} beside {len(theirs)}"
        raise DataError(f"the two models were not asked the same items: {named}", cure="evaluate both alike")
    matched = [other[str(record["id"])] for record in ours]
    pair = [columns(ours), columns(matched)]
    values = [_value(metric, found, len(ours)) for found in pair]
    if not metric.interval:
        return Estimate(values[0] - values[1], math.nan, math.nan, len(ours))
    drawn = _resampled(metric, pair, ours, seed, draws)
    low, high = _interval(drawn[0] - drawn[1], level)
    return Estimate(values[0] - values[1], low, high, len(ours))


def _value(metric: Metric, found: Mapping[str, Array], count: int) -> float:
    if not count:
        raise DataError("there is nothing to take a mean of", metric.name, "evaluate at least one item")
    if metric.combine is not None:
        return float(metric.combine(found))
    present = found.get(metric.name, np.empty(0))
    present = present[~np.isnan(present)]
    return float(present.mean()) if present.size else math.nan


def _resampled(
    metric: Metric, sides: Sequence[Mapping[str, Array]], records: Sequence[Record], seed: int, draws: int
) -> list[Array]:
    """The metric on `draws` resamples for each side (draws,), from the same resamples."""
    names: dict[str, int] = {}
    group = np.array(
        [names.setdefault(str(r.get("group") or f"\0{r['id']}"), len(names)) for r in records], dtype=np.int64
    )
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    if metric.combine is None:
        return _resampled_means(metric.name, sides, group, len(names), generator, draws)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=len(names)))
    members = np.split(order, ends[:-1])
    drawn = [np.empty(draws) for _ in sides]
    single = len(names) == len(records)
    for draw in range(draws):
        chosen = generator.integers(0, len(names), size=len(names))
        index = chosen if single else np.concatenate([members[i] for i in chosen])
        for values, found in zip(drawn, sides, strict=True):
            values[draw] = metric.combine({name: column[index] for name, column in found.items()})
    return drawn


def _resampled_means(
    name: str,
    sides: Sequence[Mapping[str, Array]],
    group: np.ndarray[Any, np.dtype[np.int64]],
    groups: int,
    generator: np.random.Generator,
    draws: int,
) -> list[Array]:
    """Means over present items on resamples: a group's sum and count, as often as the group was drawn."""
    sums = []
    for found in sides:
        column = found.get(name, np.full(len(group), math.nan))
        present = ~np.isnan(column)
        tops = np.bincount(group, weights=np.where(present, column, 0.0), minlength=groups)
        bottoms = np.bincount(group, weights=present.astype(np.float64), minlength=groups)
        sums.append((tops, bottoms))
    drawn = [np.empty(draws) for _ in sides]
    for draw in range(draws):
        times = np.bincount(generator.integers(0, groups, size=groups), minlength=groups)
        for values, (tops, bottoms) in zip(drawn, sums, strict=True):
            count = times @ bottoms
            values[draw] = times @ tops / count if count else math.nan
    return drawn


def _interval(drawn: Array, level: float) -> tuple[float, float]:
    finite = drawn[np.isfinite(drawn)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
