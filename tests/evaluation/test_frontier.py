"""PPO against best-of-n at equal KL: hull, mixtures and shares by hand arithmetic."""

import math

import numpy as np
import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.best_of_n_curve import CurvePoint, best_of_n_kl
from instructgpt.evaluation.frontier import PathPoint, mixture_at, shares, upper_hull
from instructgpt.evaluation.statistics import bootstrap, mean_interval

# (1, 1) and (4, 2) are corners; (2, 1.2) lies below the line between them (1.33), (5, 1.5) behind the top.
POINTS = [(0.0, 0.0), (4.0, 2.0), (2.0, 1.2), (1.0, 1.0), (5.0, 1.5)]


def test_hull_by_hand() -> None:
    assert upper_hull(POINTS) == [0, 3, 1]
    assert upper_hull([(0.0, 0.0), (1.0, -1.0)]) == [0]
    assert upper_hull([(0.0, 0.0), (0.0, 0.5), (1.0, 0.5)]) == [1]


@pytest.mark.parametrize(
    ("x", "height"),
    [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.5, 1.5), (4.0, 2.0), (9.0, 2.0)],
)
def test_mixtures_lie_on_the_hull(x: float, height: float) -> None:
    mixture = mixture_at(POINTS, x)
    assert sum(weight for _, weight in mixture) == pytest.approx(1.0)
    assert sum(weight * POINTS[i][1] for i, weight in mixture) == pytest.approx(height)
    assert sum(weight * POINTS[i][0] for i, weight in mixture) <= x + 1e-12


def point(n: int, reward: float, score: float, kl: float, prompts: int = 8) -> CurvePoint:
    """Prompts that differ in reward and agree on the mean."""
    noise = np.tile([0.5, -0.5], prompts // 2)
    return CurvePoint(n, reward + noise, score - noise, np.full(prompts, kl))


def checkpoint(name: str, kl: float, reward: float, score: float, prompts: int = 8) -> PathPoint:
    noise = np.tile([0.5, -0.5], prompts // 2)
    return PathPoint(name, np.full(prompts, kl), reward + noise, score - noise)


def test_shares_by_hand() -> None:
    """Start: reward 1, score 0.4. Best of 2: +0.5 and +0.1, at KL 0.193 or 0.1. Checkpoints: +0.4 and +0.2 at
    KL 0.2, and one of less reward at the same KL with the best score, which the hull leaves out."""
    curve = [point(1, 1.0, 0.4, 0.0), point(2, 1.5, 0.5, 0.1)]
    path = [checkpoint("a", 0.2, 1.4, 0.6), checkpoint("b", 0.2, 1.1, 0.9)]
    analytic, estimated = shares(curve, path, draws=50)
    assert (analytic.n, analytic.kind, analytic.kl) == (2, "analytic", best_of_n_kl(2))
    weight = (math.log(2) - 0.5) / 0.2
    assert analytic.score is not None and estimated.score is not None
    assert analytic.reward.mean == pytest.approx(weight * 0.4 / 0.5)
    assert analytic.score.mean == pytest.approx(weight * 0.2 / 0.1)
    assert (estimated.kind, estimated.kl) == ("estimated", pytest.approx(0.1))
    assert estimated.reward.mean == pytest.approx(0.5 * 0.4 / 0.5)
    assert estimated.score.mean == pytest.approx(0.5 * 0.2 / 0.1)
    # the noise is the same everywhere, so that no resample differs
    assert analytic.reward.low == pytest.approx(analytic.reward.high)


def test_a_policy_that_never_gains_has_no_share() -> None:
    curve = [point(1, 1.0, 0.4, 0.0), point(4, 1.5, 0.5, 0.6)]
    for share in shares(curve, [checkpoint("worse", 0.5, 0.2, 0.1)], draws=20):
        assert share.reward.mean == 0.0 and share.score is not None and share.score.mean == 0.0


def test_without_a_judge_there_is_no_score() -> None:
    curve = [CurvePoint(n, np.full(4, float(n)), None, np.full(4, 0.1)) for n in (1, 2)]
    path = [PathPoint("a", np.full(4, 0.1), np.full(4, 2.0))]
    assert [share.score for share in shares(curve, path, draws=20)] == [None, None]


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(DataError, match="no point n = 1"):
        shares([point(2, 1.0, 1.0, 0.1)], [])
    with pytest.raises(DataError, match="different prompts"):
        shares([point(1, 1.0, 1.0, 0.0)], [checkpoint("a", 0.1, 1.0, 1.0, prompts=4)])


def test_bootstrap_of_a_mean_is_the_interval_of_the_mean() -> None:
    """Against the closed form: mean +- 1.96 standard errors, within a tenth of one at 4,000 draws."""
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(lambda rows: float(values[rows].mean()), 400, seed=1)
    error = values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    other = mean_interval(values.tolist(), seed=1)
    assert (found.low, found.high) == (
        pytest.approx(other.low, abs=0.1 * error),
        pytest.approx(other.high, abs=0.1 * error),
    )


def test_resamples_without_a_figure_are_left_out() -> None:
    found = bootstrap(lambda rows: 1.0 if 0 in rows else math.nan, 3, draws=200)
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)
    with pytest.raises(DataError, match="nothing to draw"):
        bootstrap(lambda rows: 1.0, 0)
