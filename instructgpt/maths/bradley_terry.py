"""Strengths of many models from comparisons of two (Bradley and Terry 1952), and Elo's scale for them."""

import math

import torch
from torch import Tensor

from instructgpt.maths.logistic import logistic_fit

ELO_PER_NAT = 400 / math.log(10)
"""Elo points in one unit of log-strength: 400 points are odds of ten to one."""
WEAK_PRECISION = 0.04
"""1 / variance of the prior on strengths where the comparisons alone don't bound them: sd 5, 870 Elo."""


def strengths(wins: Tensor, precision: float = 0.0) -> Tensor:
    """Log-strengths with mean 0: P(i beats j) = sigmoid(strength_i - strength_j), by maximum likelihood.

    Args:
        wins: (..., M, M), how often i beat j; a tie is half a win for both, as Davidson's model gives for
            equal strengths. The diagonal does not count.
        precision: 1 / variance of a normal prior around 0 on each strength; 0 is none, and then the maximum
            exists only if `groups` finds a single one (Ford 1957).

    Returns:
        (..., M) float64.
    """
    shape = wins.shape[:-1]
    count = wins.shape[-1]
    wins = wins.double().reshape(-1, count, count)
    first, second = torch.triu_indices(count, count, offset=1)
    pairs = torch.arange(first.numel())
    features = torch.zeros(first.numel(), count, dtype=torch.float64)
    features[pairs, first], features[pairs, second] = 1.0, -1.0
    won, lost = wins[:, first, second], wins[:, second, first]
    if precision > 0:
        found = logistic_fit(features, won, won + lost, torch.full((count,), precision))
    else:  # only differences are known: the first one is held at 0
        found = logistic_fit(features[:, 1:], won, won + lost, torch.zeros(count - 1))
        found = torch.cat([torch.zeros(found.shape[0], 1, dtype=torch.float64), found], dim=1)
    return (found - found.mean(dim=1, keepdim=True)).reshape(shape)


def groups(wins: Tensor) -> list[list[int]]:
    """Strongly connected groups of the graph "has won against" (M, M), each sorted, in order of their first.

    With more than one group some model won or lost all its comparisons with the others, and no finite
    strengths are the most likely ones.
    """
    reach = _closed(wins > 0)
    mutual = (reach & reach.T).tolist()
    return _rows(mutual)


def islands(wins: Tensor) -> list[list[int]]:
    """Groups of models (M, M) between which there is no comparison at all, each sorted."""
    met = (wins > 0) | (wins.T > 0)
    return _rows(_closed(met).tolist())


def _closed(graph: Tensor) -> Tensor:
    """Who can be reached from whom, oneself included."""
    reach = graph | torch.eye(graph.shape[0], dtype=torch.bool)
    for middle in range(graph.shape[0]):
        reach = reach | (reach[:, middle, None] & reach[None, middle, :])
    return reach


def _rows(mutual: list[list[bool]]) -> list[list[int]]:
    found: list[list[int]] = []
    for row in mutual:
        members = [place for place, inside in enumerate(row) if inside]
        if members not in found:
            found.append(members)
    return found
