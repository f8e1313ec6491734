"""Means of values in [0, 1] that come in clusters: votes of one prompt, or of one labeler, go together.

A vote on the same prompt, or by the same labeler, tells less than a vote on another prompt by another one;
intervals that take all votes as independent are too narrow. A vote may belong to two clusterings that cross,
its prompt and its labeler.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.maths.student import t_quantile

LEVEL = 0.95
_CHUNK = 1 << 22  # weights held at one time


@dataclass(frozen=True)
class ClusteredMean:
    """A weighted mean with what its interval needs."""

    mean: float
    variance: float
    """Of the mean; 0 where no value differs from another."""
    clusters: int
    """Number of clusters, of the clustering that has fewest."""


def clustered_mean(values: Tensor, weights: Tensor, clusterings: Sequence[Tensor]) -> ClusteredMean:
    """sum(weights * values) / sum(weights) with its variance under one or two clusterings.

    The variance is that of the linearised ratio: sum over clusters of the squared sum of
    weights * (values - mean) / sum(weights), times G / (G - 1) for G clusters (Cochran 1977, section 6.3).
    With two clusterings it is the sum of both less that of their intersection (Cameron, Gelbach and Miller
    2011, eq. 2.13), and not less than the larger of both: the difference may be too small by chance.

    Args:
        values, weights: (n,); weights are positive.
        clusterings: one or two (n,) int64, the number of each value's cluster.

    Raises:
        ValueError: there are no values, or not one or two clusterings.
    """
    if values.numel() == 0 or len(clusterings) not in (1, 2):
        raise ValueError("give values, and one or two clusterings of them")
    values, weights = values.double(), weights.double()
    total = weights.sum()
    mean = (weights * values).sum() / total
    parts = weights * (values - mean) / total
    found = [_variance(parts, clusters) for clusters in clusterings]
    variance = max(each for each, _ in found)
    if len(clusterings) == 2:
        one, other = clusterings
        crossed = _variance(parts, one * (int(other.max()) + 1) + other)[0]
        variance = max(variance, sum(each for each, _ in found) - crossed)
    return ClusteredMean(float(mean), variance, min(count for _, count in found))


def _variance(parts: Tensor, clusters: Tensor) -> tuple[float, int]:
    """Of the sum of `parts`, and the number of clusters; 0 with a single cluster."""
    numbers, places = torch.unique(clusters, return_inverse=True)
    count = numbers.numel()
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, places, parts)
    return float(sums.square().sum()) * count / max(1, count - 1), count


def wilson_interval(found: ClusteredMean, level: float = LEVEL) -> tuple[float, float]:
    """Ends of the score interval for a mean of values in [0, 1] whose variance the clusters tell.

    Wilson's interval (1927) with the effective number of values n = mean (1 - mean) / variance, and Student's
    quantile with one degree of freedom less than there are clusters: the form that Franco, Little, Louis and
    Slud (2019, J. Survey Statistics and Methodology 7) recommend for surveys in clusters. It never leaves
    [0, 1] and is not empty where all values are 0 or 1; where no value differs from another n is the number
    of clusters. With a single cluster nothing is known of the spread: (0, 1).
    """
    if found.clusters < 2:
        return 0.0, 1.0
    p = min(1.0, max(0.0, found.mean))
    spread = p * (1 - p)
    n = spread / found.variance if found.variance > 0 and spread > 0 else float(found.clusters)
    t = t_quantile((1 + level) / 2, found.clusters - 1)
    centre = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * math.sqrt(spread / n + t * t / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def equal_weights(groups: Tensor) -> Tensor:
    """Weights (n,) under which each group (n,) int64 counts once, however many values it has."""
    _, places, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / counts[places].double()


def resampled_weights(
    weights: Tensor, clusterings: Sequence[Tensor], seed: int, draws: int = 1000
) -> Iterator[Tensor]:
    """Weights of `draws` bootstrap resamples, in portions (rows, n) float64; whole clusters are drawn again.

    A value has its weight as often as its cluster was drawn. With two clusterings each is drawn on its own
    and the product counts: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1, 386-411),
    which errs on the safe side. A resample may be left without any value: all its weights are 0 then.
    """
    generator = torch.Generator().manual_seed(seed)
    places = [torch.unique(clusters, return_inverse=True)[1] for clusters in clusterings]
    rows = max(1, _CHUNK // max(1, weights.numel()))
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        drawn = weights.double().expand(count, -1)
        for place in places:
            drawn = drawn * _times(count, int(place.max()) + 1, generator)[:, place]
        yield drawn


def _times(count: int, clusters: int, generator: torch.Generator) -> Tensor:
    """How often each cluster is drawn (count, clusters)."""
    drawn = torch.randint(clusters, (count, clusters), generator=generator)
    times = torch.zeros(count, clusters, dtype=torch.float64)
    return times.scatter_add_(1, drawn, torch.ones(count, clusters, dtype=torch.float64))
