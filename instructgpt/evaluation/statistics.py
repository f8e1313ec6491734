"""Means and win rates over prompts, with bootstrap intervals.

The prompt is the unit that is drawn again: replies to one prompt are not independent, prompts are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from instructgpt.errors import DataError
from instructgpt.runtime.seeds import derive_seed

LEVEL = 0.95
DRAWS = 4000
_CHUNK = 1 << 21  # resampled values held at one time


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts with the ends of its interval (95 % unless said otherwise)."""

    mean: float
    low: float
    high: float
    n: int

    def row(self) -> dict[str, float]:
        """As it stands in `summary.json`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(
    values: Sequence[float], seed: int = 0, level: float = LEVEL, draws: int = DRAWS
) -> Estimate:
    """Mean of one value a prompt, with the percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

    Args:
        values: one a prompt (n,).
        seed: draws the resamples; equal values and seed give equal intervals.
        level: probability mass inside the interval.
        draws: number of resamples.

    Raises:
        DataError: there are no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise DataError("there is nothing to take a mean of", cure="give at least one prompt")
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    means = np.empty(draws)
    rows = max(1, _CHUNK // data.size)
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        drawn = generator.integers(0, data.size, size=(count, data.size))
        means[start : start + count] = data[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(data.mean()), float(low), float(high), int(data.size))


def outcomes(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 where our score is higher, 0 where theirs is, 0.5 for a tie; prompt by prompt.

    Raises:
        DataError: the two do not belong together, row by row (field fault 47).
    """
    if len(ours) != len(theirs):
        raise DataError(
            f"{len(ours)} scores can't be compared with {len(theirs)}", cure="score the same prompts twice"
        )
    return [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in zip(ours, theirs, strict=True)]


def win_rate(
    ours: Sequence[float],
    theirs: Sequence[float],
    seed: int = 0,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """Share of prompts on which we score higher, ties half, with its bootstrap interval over prompts."""
    return mean_interval(outcomes(ours, theirs), seed, level, draws)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    seed: int = 0,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> Estimate:
    """Percentile bootstrap over prompts of any figure: a ratio of means, a point on a curve.

    Args:
        statistic: the figure on the prompts whose indices (n,) it is given; its value on 0 .. n - 1 is the
            estimate. A resample on which it is not finite (a denominator of 0) is left out.
        n: number of prompts.
        seed, level, draws: as for `mean_interval`.

    Raises:
        DataError: there are no prompts.
    """
    if n < 1:
        raise DataError("there is nothing to draw again", cure="give at least one prompt")
    generator = np.random.default_rng(derive_seed(seed, "bootstrap"))
    drawn = np.array([statistic(generator.integers(0, n, size=n)) for _ in range(draws)])
    drawn = drawn[np.isfinite(drawn)]
    value = float(statistic(np.arange(n)))
    if drawn.size == 0:
        return Estimate(value, math.nan, math.nan, n)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)
