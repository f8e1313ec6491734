"""What is left of a score or of a win when length is held equal (field faults 23 and 47)."""

import math

import torch
from torch import Tensor

PRIOR_VARIANCE = 1.0
"""Of the slope in `length_controlled_win_rate`, else infinite where the longer reply always wins."""
_STEPS = 50
_CLOSE = 1e-10
_TINY = torch.finfo(torch.float64).tiny


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two (n,) tensors, computed in float64; 0 where one of them is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return torch.where(scale > 0, (x * y).sum() / scale.clamp(min=_TINY), 0.0)


def value_at(x: Tensor, y: Tensor, where: float) -> Tensor:
    """Height at `where` of the least-squares line of y on x, both (n,), in float64.

    Where x is constant it is the mean of y.
    """
    x, y = x.double(), y.double()
    centred = x - x.mean()
    spread = centred.square().sum()
    slope = torch.where(spread > 0, (centred * y).sum() / spread.clamp(min=_TINY), 0.0)
    return y.mean() + slope * (where - x.mean())


def length_controlled_win_rate(outcomes: Tensor, our_lengths: Tensor, their_lengths: Tensor) -> float:
    """The win rate that a logistic regression expects between replies of the same length, in [0, 1].

    All (n,), one entry a prompt: `outcomes` is 1 for a win, 0 for a loss, 0.5 for a tie. The model is
    logit P(win) = a + b * tanh(d / s), where d is our length less theirs and s the standard deviation of d;
    fitted by Newton's method with a N(0, `PRIOR_VARIANCE`) prior on b, it answers sigmoid(a). This is the
    length term of AlpacaEval's length-controlled win rate (arXiv:2404.04475, section 3), without its terms
    for single prompts and without more than one pair of models. Where all outcomes are equal, or all length
    differences are, there is nothing to control for and the answer is the plain mean.
    """
    wins = outcomes.double()
    difference = our_lengths.double() - their_lengths.double()
    spread = difference.std(unbiased=False)
    if float(wins.mean()) in (0.0, 1.0) or float(spread) == 0.0:
        return float(wins.mean())
    features = torch.stack([torch.ones_like(wins), torch.tanh(difference / spread)], dim=1)  # (n, 2)
    prior = torch.tensor([0.0, 1 / PRIOR_VARIANCE], dtype=torch.float64)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(_STEPS):
        chance = torch.sigmoid(features @ weights)
        gradient = features.T @ (wins - chance) - prior * weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + torch.diag(prior)
        step = torch.linalg.solve(curvature, gradient)
        # A full step can overshoot where the chances are near 0 or 1.
        weights = weights + step * min(1.0, 2.0 / max(float(step.abs().max()), _CLOSE))
        if float(step.abs().max()) < _CLOSE:
            break
    return 1 / (1 + math.exp(-float(weights[0])))
