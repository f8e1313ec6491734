"""What is left of a score or of a win when length is held equal (field faults 23 and 47)."""

import torch
from torch import Tensor

from instructgpt.maths.logistic import logistic_fit

PRIOR_VARIANCE = 1.0
"""Of the slope in `length_controlled_fits`, else infinite where the longer reply always wins."""
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

    All (n,), one entry a prompt: `outcomes` is 1 for a win, 0 for a loss, 0.5 for a tie. As
    `length_controlled_fits` with equal weights, and s the standard deviation with n in its denominator. Where
    all outcomes are equal, or all length differences are, there is nothing to control for and the answer is
    the plain mean.
    """
    wins = outcomes.double()
    difference = our_lengths.double() - their_lengths.double()
    spread = float(difference.std(unbiased=False))
    if float(wins.mean()) in (0.0, 1.0) or spread == 0.0:
        return float(wins.mean())
    return float(length_controlled_fits(wins, difference, torch.ones(1, wins.numel()), spread)[0])


def length_controlled_fits(outcomes: Tensor, differences: Tensor, weights: Tensor, spread: float) -> Tensor:
    """Win rates between replies of the same length (b,), in [0, 1], under b weightings of the same outcomes.

    The model is logit P(win) = a + b * tanh(d / s); with a N(0, `PRIOR_VARIANCE`) prior on b it answers
    sigmoid(a). This is the model of AlpacaEval's length-controlled win rate (arXiv:2404.04475, section 3; its
    s is the standard deviation of the differences with n - 1), for one pair of models and without the term
    for how hard each prompt is. Where all weighted outcomes are wins, or losses, or s is 0, it is the
    weighted mean.

    Args:
        outcomes, differences: (n,); a tie is 0.5, a difference is our length less theirs.
        weights: (b, n), not negative.
        spread: s.
    """
    outcomes, weights = outcomes.double(), weights.double()
    means = weights @ outcomes / weights.sum(dim=1)
    if spread == 0.0:
        return means
    features = torch.stack([torch.ones_like(outcomes), torch.tanh(differences.double() / spread)], dim=1)
    prior = torch.tensor([0.0, 1 / PRIOR_VARIANCE], dtype=torch.float64)
    rates = torch.sigmoid(logistic_fit(features, weights * outcomes, weights, prior)[:, 0])
    return torch.where((means > 0) & (means < 1), rates, means)
