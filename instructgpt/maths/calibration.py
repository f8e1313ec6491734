"""Whether a reward model's probabilities can be believed: reliability curve, its mean error, temperature.

A reward model says that reply w beats reply l with probability sigmoid(r_w - r_l) (Bradley-Terry, Eq. 1 of
arXiv:2203.02155). Everything here works on margins m = r_better - r_worse (P,), one an untied pair, where
*better* is what the labeler says. The model's own choice is the reply with the higher reward, its confidence
in it sigmoid(|m|), and it is right where m > 0; m = 0 counts one half.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_BISECTIONS = 100


class Reliability(NamedTuple):
    """A reliability curve over equal bins of confidence from 0.5 to 1, each (bins,).

    Attributes:
        counts: pairs in the bin, int64.
        confidence: their mean confidence, NaN in an empty bin.
        accuracy: share of them in which the model is right, NaN in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(margins: Tensor, bins: int = 10) -> Reliability:
    """Confidence against the share right, in `bins` equal bins; a bin holds its lower edge.

    Args:
        margins: (P,) r_better - r_worse.
        bins: at least 1; the last one holds confidence 1 too.
    """
    margins = margins.double()
    confidence = torch.sigmoid(margins.abs())
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    counts = torch.bincount(place, minlength=bins)
    return Reliability(
        counts,
        torch.bincount(place, weights=confidence, minlength=bins) / counts,
        torch.bincount(place, weights=right, minlength=bins) / counts,
    )


def expected_calibration_error(curve: Reliability) -> float:
    """Mean over pairs of |confidence - accuracy| of the pair's bin (ECE; Guo et al. 2017, arXiv:1706.04599).

    0 is perfect. Few pairs a bin make it larger than it is, so compare it at like numbers of pairs.
    """
    gaps = (curve.confidence - curve.accuracy).abs().nan_to_num()
    return float((curve.counts * gaps).sum() / curve.counts.sum())


def pair_nll(margins: Tensor, temperature: float = 1.0) -> float:
    """Mean of -log sigmoid(m / temperature), in nats per pair; each pair weighs the same.

    Eq. 1 averages within a prompt first, so at temperature 1 this is not quite the training loss.
    """
    return float(functional.softplus(-margins.double() / temperature).mean())


def best_temperature(margins: Tensor) -> float | None:
    """The T > 0 that minimises `pair_nll` (temperature scaling; Guo et al. 2017).

    Above 1 the model is over-confident (its margins are too large), below 1 under-confident. None where no
    such T exists: no pair is wrong (T goes to 0), or the margins' mean is not above 0 (T goes to infinity).
    With s = 1/T the loss is convex in s, so its slope -mean(m * sigmoid(-s m)) crosses 0 once.
    """
    margins = margins.double()
    if not (margins.numel() and margins.mean() > 0 and (margins < 0).any()):
        return None

    def slope(inverse: float) -> float:
        return -float((margins * torch.sigmoid(-inverse * margins)).mean())

    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / high
