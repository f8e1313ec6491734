"""Logistic regression by Newton's method, for many weightings of the same rows at once."""

import torch
from torch import Tensor

_STEPS = 100
_CLOSE = 1e-10
_REACH = 2.0
"""Largest change of a coefficient in one step: a full step can overshoot where chances are near 0 or 1."""


def logistic_fit(features: Tensor, wins: Tensor, totals: Tensor, precision: Tensor) -> Tensor:
    """Coefficients (b, p) that maximise sum of wins log P + (totals - wins) log(1 - P) less half the sum of
    precision * coefficient^2, where logit P = features @ coefficients, in float64.

    Args:
        features: (n, p).
        wins, totals: (b, n) or (n,), 0 <= wins <= totals, fractions allowed: each of b problems weighs the
            rows its own way.
        precision: (p,), 1 / variance of a normal prior with mean 0; 0 is none. Without one the maximum may
            lie at infinity: coefficients are then as large as a hundred steps made them.
    """
    features, precision = features.double(), precision.double()
    wins, totals = torch.atleast_2d(wins.double()), torch.atleast_2d(totals.double())
    count, width = features.shape
    products = (features[:, :, None] * features[:, None, :]).reshape(count, width * width)
    coefficients = torch.zeros(wins.shape[0], width, dtype=torch.float64)
    # Where a direction is flat (a prompt or a model that was not drawn) the step along it is 0, not infinite.
    ridge = torch.diag(precision + 1e-12)
    for _ in range(_STEPS):
        chance = torch.sigmoid(coefficients @ features.T)
        gradient = (wins - totals * chance) @ features - precision * coefficients
        weights = totals * chance * (1 - chance)
        curvature = (weights @ products).reshape(-1, width, width) + ridge
        step = torch.linalg.solve(curvature, gradient)
        largest = step.abs().amax(dim=1, keepdim=True)
        coefficients = coefficients + step * (_REACH / largest.clamp(min=_REACH))
        if float(largest.max()) < _CLOSE:
            break
    return coefficients
