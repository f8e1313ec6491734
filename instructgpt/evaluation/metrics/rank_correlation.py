"""Spearman's rank correlation, ties sharing the mean of their ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks (n,) from 1; equal values share the mean of theirs."""
    data = np.asarray(values, dtype=np.float64)
    _, group, sizes = np.unique(data, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[group]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, in [-1, 1]; NaN where one of the two does not vary."""
    x, y = ranks(first), ranks(second)
    x, y = x - x.mean(), y - y.mean()
    below = math.sqrt(float((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / below if below > 0 else math.nan
