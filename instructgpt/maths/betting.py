"""A confidence sequence for the mean of values in [0, 1]: it may be looked at after every value.

An interval with 95 % coverage covers when looked at once; who looks again after every comparison, and stops
when 1/2 is outside, is wrong far more often than once in twenty. These intervals cover at all times together
(Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B
86, theorem 3, arXiv:2010.09686), whatever the distribution: ties and shares are values like others.
"""

import math

import torch
from torch import Tensor

LEVEL = 0.95
_CUT = 0.5
"""Largest share of its capital that a bet can lose at once."""
_GRID = 1000


def _stakes(values: Tensor, level: float) -> Tensor:
    """The predictable plug-in bets lambda_t (..., n): of the values before t alone."""
    times = torch.arange(1, values.shape[-1] + 1, dtype=torch.float64)
    means = (0.5 + values.cumsum(-1)) / (times + 1)
    spreads = (0.25 + (values - means).square().cumsum(-1)) / (times + 1)
    before = torch.cat([torch.full_like(spreads[..., :1], 0.25), spreads[..., :-1]], dim=-1)
    return (2 * math.log(2 / (1 - level)) / (before * times * (times + 1).log())).sqrt()


def log_capital(values: Tensor, mean: float, level: float = LEVEL) -> Tensor:
    """Log of the hedged capital (..., n) that bets against `mean` have made after each value (..., n).

    Under that mean it is below log(1 / (1 - level)) at all times with probability `level`.
    """
    values = values.double()
    stakes = _stakes(values, level)
    above = stakes.clamp(max=_CUT / mean if mean > 0 else math.inf)
    below = stakes.clamp(max=_CUT / (1 - mean) if mean < 1 else math.inf)
    up = torch.log1p(above * (values - mean)).cumsum(-1)
    down = torch.log1p(-below * (values - mean)).cumsum(-1)
    return torch.maximum(up, down) - math.log(2)


def confidence_sequence(values: Tensor, level: float = LEVEL) -> Tensor:
    """Ends (n, 2) of the intervals after each value, each inside the one before.

    Args:
        values: (n,) in [0, 1], in the order in which they came; independent, with one mean.
        level: probability that all intervals hold the mean.

    The ends lie on a grid of a thousandth, one step to the safe side.
    """
    bound = math.log(1 / (1 - level))
    grid = torch.linspace(0, 1, _GRID + 1, dtype=torch.float64)
    alive = torch.stack([log_capital(values, float(mean), level) for mean in grid]) < bound
    alive = alive.long().cummin(dim=1).values.bool()  # (grid, n): what was refuted once stays refuted
    low, high = alive.long().argmax(dim=0), _GRID - alive.flip(0).long().argmax(dim=0)
    ends = torch.stack([grid[(low - 1).clamp(min=0)], grid[(high + 1).clamp(max=_GRID)]], dim=1)
    # Where nothing is left, the values were of more than one mean or very unlucky: the last interval stands.
    last = int(alive.any(dim=0).long().cummin(0).values.sum())
    return torch.cat([ends[:last], ends[last - 1 : last].expand(values.numel() - last, 2)])


def first_refuted(values: Tensor, mean: float = 0.5, level: float = LEVEL) -> int | None:
    """After how many values `mean` is refuted for good; None if it is not."""
    refuted = (log_capital(values, mean, level) >= math.log(1 / (1 - level))).nonzero()
    return int(refuted[0]) + 1 if refuted.numel() else None
