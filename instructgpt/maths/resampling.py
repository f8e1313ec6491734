"""Bootstrap intervals of ratios whose unit is a prompt: what belongs to one prompt is drawn together."""

from __future__ import annotations

import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 1000
_CHUNK = 1 << 21  # prompts held at one time


def ratio_intervals(
    numerators: Tensor, denominators: Tensor, seed: int, level: float = LEVEL, draws: int = DRAWS
) -> Tensor:
    """Ends of the percentile bootstrap intervals of sum(numerators) / sum(denominators): (2, columns).

    Prompts are drawn again with replacement, each with all that belongs to it (Efron and Tibshirani 1993,
    chapters 8 and 13): pairs of one prompt share replies and are not independent.

    Args:
        numerators, denominators: (prompts, columns), for example pairs in the right order and pairs. All
            columns use the same draws.
        seed: draws the resamples; equal arguments give equal intervals.
        level: probability mass inside the interval.
        draws: number of resamples. One in which a column's denominator is 0 does not count for that column;
            a column without any has NaN.
    """
    prompts = numerators.shape[0]
    generator = torch.Generator().manual_seed(seed)
    tops, bottoms = numerators.double(), denominators.double()
    ratios = []
    for start in range(0, draws, rows := max(1, _CHUNK // max(1, prompts))):
        count = min(rows, draws - start)
        drawn = torch.randint(prompts, (count, prompts), generator=generator)
        times = torch.zeros(count, prompts, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        ratios.append((times @ tops) / (times @ bottoms))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return torch.nanquantile(torch.cat(ratios), ends, dim=0)
