"""Estimates with bootstrap intervals over prompts, and how many more prompts a narrower one needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
DRAWS = 1000
TARGET = 0.05
"""Half-width of an interval that counts as narrow enough."""
LEAST_ITEMS = 10
"""Fewer prompts give no interval: a percentile bootstrap of so few is too narrow."""
_MOST_CLUSTERS = 4000
_PLANNED_DEVIATION = 0.5  # of one prompt's value, for planning: the largest a share can have
_Z = 1.959964  # quantile of the standard normal for LEVEL


@dataclass(frozen=True)
class Estimate:
    """A statistic with the ends of its 95 % interval.

    Attributes:
        value: None where it is not defined: no overlap, or nothing varies.
        low, high: percentile bootstrap over prompts; None below `LEAST_ITEMS` prompts.
        items: prompts that it rests on: those that two of the labelers in question judged.
        needed: power note: about how many such prompts an interval of +-`TARGET` takes; None if there are
            enough.
    """

    value: float | None
    low: float | None
    high: float | None
    items: int
    needed: int | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def planned_items(target: float = TARGET) -> int:
    """Prompts for an interval of +-`target` before anything is known: 385 for 0.05.

    (z s / target)^2 with a standard deviation s of one half for a prompt's value, the most that a share can
    have; a statistic between -1 and 1 that varies more needs more.
    """
    return math.ceil((_Z * _PLANNED_DEVIATION / target) ** 2)


class Resamples:
    """One set of bootstrap resamples of prompts, shared by all statistics of the same labelers.

    A prompt is drawn with all that belongs to it, since replies to one prompt and labelers of one prompt are
    not independent (Efron and Tibshirani 1993, chapters 8 and 13). Statistics must be functions of sums over
    prompts. More than 4,000 prompts are put into 4,000 random bundles first: that leaves the expected
    variance of a sum as it is and bounds the time.

    Args:
        clusters: number of prompts.
        seed: draws; equal arguments give equal intervals.
        draws: number of resamples.
    """

    def __init__(self, clusters: int, seed: int = 0, draws: int = DRAWS) -> None:
        generator = np.random.default_rng([seed, clusters, 0x1AB])
        self.clusters = clusters
        self._bundle: NDArray[np.int64] | None = None
        units = clusters
        if clusters > _MOST_CLUSTERS:
            units = _MOST_CLUSTERS
            self._bundle = generator.permutation(clusters) % units
        drawn = generator.integers(0, max(units, 1), size=(draws, units))
        drawn += np.arange(draws)[:, None] * units
        self._times = np.bincount(drawn.ravel(), minlength=draws * units).reshape(draws, units).astype(float)

    def totals(self, sums: Array) -> Array:
        """Resampled totals (draws, columns) of one row of sums a prompt (clusters, columns)."""
        if self._bundle is not None:
            bundled = np.zeros((self._times.shape[1], sums.shape[1]))
            np.add.at(bundled, self._bundle, sums)
            sums = bundled
        return self._times @ sums


def estimate(
    value: float,
    totals: Array,
    statistic: Callable[[Array], Array],
    items: int,
    target: float = TARGET,
) -> Estimate:
    """The estimate `value` with the interval of `statistic` over resampled totals.

    Args:
        value: the statistic on the data themselves; NaN if it is not defined.
        totals: (draws, columns).
        statistic: totals (draws, columns) -> values (draws,), NaN where not defined; those don't count.
        items: prompts that the value rests on.
        target: half-width that is narrow enough.
    """
    if not math.isfinite(value):
        return Estimate(
            None, None, None, items, planned_items(target) if items < planned_items(target) else None
        )
    if items < LEAST_ITEMS:
        return Estimate(value, None, None, items, planned_items(target))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = statistic(totals)
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size == 0:
        return Estimate(value, None, None, items, planned_items(target))
    low, high = (float(end) for end in np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    # Where no resample differs the interval has no width; the rule of three then bounds what was never seen.
    half = max((high - low) / 2, 1.5 / items)
    needed = math.ceil(items * (half / target) ** 2) if half > target else None
    return Estimate(value, low, high, items, needed)
