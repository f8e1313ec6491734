"""PPO against best-of-n at equal KL: which share of best-of-n's gain does a set of checkpoints reach?

A checkpoint is a point (KL, gain) above the model it started from, which is the point (0, 0). Between two
policies A and B lies their mixture, which for each reply tosses a coin for who answers: its mean reward is
linear in the coin's probability and its KL is at most linear (KL is convex), so every point on the line
between two checkpoints is reached by a real policy at no more KL than drawn. What a set of checkpoints can
reach within a budget of KL is therefore their upper concave hull, and stays at its top beyond its last point.

The hull is chosen by the reward alone. A judge's score (the hidden utility) is read off the very mixture that
the reward chose, so that the choice can't profit from the judge's noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from instructgpt.errors import DataError
from instructgpt.evaluation.best_of_n_curve import Array, CurvePoint
from instructgpt.evaluation.statistics import Estimate, bootstrap

DRAWS = 1000
KINDS = ("analytic", "estimated")
"""Which KL of best-of-n the checkpoints may spend: the bound log n - (n-1)/n, or the estimate."""


@dataclass(frozen=True)
class PathPoint:
    """A checkpoint on the prompts that best-of-n was measured on: one value a prompt, all (P,)."""

    name: str
    kl: Array
    reward: Array
    score: Array | None = None


@dataclass(frozen=True)
class Share:
    """What PPO gains at best-of-n's KL as a share of what best-of-n gains.

    Attributes:
        n: of best-of-n.
        kind: see `KINDS`.
        kl: the budget, nats per reply.
        reward, score: PPO's gain / best-of-n's gain, by the reward that both follow and by the judge.
    """

    n: int
    kind: str
    kl: float
    reward: Estimate
    score: Estimate | None


def upper_hull(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points on the upper concave hull, from the smallest x to the largest y.

    Args:
        points: (x, y) in any order.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    hull: list[int] = []
    for i in order:
        x, y = points[i]
        if hull and y <= points[hull[-1]][1]:
            continue
        while len(hull) > 1:
            (x0, y0), (x1, y1) = points[hull[-2]], points[hull[-1]]
            if (y1 - y0) * (x - x0) > (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append(i)
    return hull


def mixture_at(points: Sequence[tuple[float, float]], x: float) -> list[tuple[int, float]]:
    """(index, weight) of the points whose mixture is the hull at `x`; the top where x is beyond it.

    Args:
        points: (x, y), one of them at or below `x`.
        x: the budget.
    """
    hull = upper_hull(points)
    inside = [i for i in hull if points[i][0] <= x]
    if len(inside) == len(hull):
        return [(hull[-1], 1.0)]
    left, right = inside[-1], hull[len(inside)]
    weight = (x - points[left][0]) / (points[right][0] - points[left][0])
    return [(left, 1 - weight), (right, weight)]


def shares(
    curve: Sequence[CurvePoint], path: Sequence[PathPoint], seed: int = 0, draws: int = DRAWS
) -> list[Share]:
    """The share for every n above 1 and for both kinds of KL, with 95 % bootstrap intervals over prompts.

    Everything is drawn again together: gains, KL, the budget and the hull.

    Args:
        curve: best-of-n, with the point n = 1, which is the start of all gains.
        path: checkpoints in any order, of one run or of several.

    Raises:
        DataError: no point has n = 1, or the two were measured on different numbers of prompts.
    """
    start = next((point for point in curve if point.n == 1), None)
    if start is None:
        raise DataError("best-of-n has no point n = 1", cure="measure n = 1 with the others")
    prompts = len(start.reward)
    if any(len(values) != prompts for point in path for values in (point.kl, point.reward)):
        raise DataError("checkpoints and best-of-n have different prompts", cure="measure both on the same")
    judged = start.score is not None and bool(path) and all(point.score is not None for point in path)
    found = []
    for point in curve:
        if point.n == 1:
            continue
        for kind in KINDS:
            figure = partial(_share, start, point, path, kind)
            score = bootstrap(partial(figure, True), prompts, seed, draws=draws) if judged else None
            reward = bootstrap(partial(figure, False), prompts, seed, draws=draws)
            found.append(Share(point.n, kind, _budget(point, kind, np.arange(prompts)), reward, score))
    return found


def _budget(point: CurvePoint, kind: str, rows: np.ndarray) -> float:
    return point.bound if kind == "analytic" else max(0.0, float(point.kl[rows].mean()))


def _share(
    start: CurvePoint, best: CurvePoint, path: Sequence[PathPoint], kind: str, judged: bool, rows: np.ndarray
) -> float:
    """PPO's gain over best-of-n's on the prompts `rows`; not finite where best-of-n gains nothing."""
    base = start.reward[rows].mean()
    points = [(0.0, 0.0)] + [
        (max(0.0, float(point.kl[rows].mean())), float(point.reward[rows].mean() - base)) for point in path
    ]
    mixture = mixture_at(points, _budget(best, kind, rows))
    if not judged:
        gain = sum(weight * points[i][1] for i, weight in mixture)
        return _ratio(gain, float(best.reward[rows].mean() - base))
    assert start.score is not None and best.score is not None
    base = start.score[rows].mean()
    gain = 0.0
    for i, weight in mixture:
        if i > 0:
            score = path[i - 1].score
            assert score is not None
            gain += weight * float(score[rows].mean() - base)
    return _ratio(gain, float(best.score[rows].mean() - base))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole != 0 else float("nan")
