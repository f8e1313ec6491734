"""length_control.py: against hand arithmetic, numpy, and a plain grid search of the same likelihood."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from instructgpt.maths.length_control import (
    correlation,
    length_controlled_fits,
    length_controlled_win_rate,
    value_at,
)


def test_correlation_by_hand_and_by_numpy() -> None:
    # x - 2 = (-1, 0, 1), y - 3 = (-2, 1, 1): 3 / sqrt(2 * 6)
    x, y = torch.tensor([1, 2, 3]), torch.tensor([1.0, 4.0, 4.0])
    assert correlation(x, y).item() == pytest.approx(3 / math.sqrt(12), abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    assert correlation(a, a + b).item() == pytest.approx(np.corrcoef(a, a + b)[0, 1], abs=1e-12)
    assert correlation(a, -2 * a).item() == pytest.approx(-1.0, abs=1e-12)


def test_correlation_with_a_constant_is_0() -> None:
    x = torch.tensor([1.0, 2.0])
    assert correlation(x, torch.ones(2)).item() == correlation(torch.ones(2), x).item() == 0.0


def test_value_at_by_hand_and_by_numpy() -> None:
    # slope 3 / 2, through (2, 3): 3 + 1.5 * (5 - 2)
    x, y = torch.tensor([1, 2, 3]), torch.tensor([1.0, 4.0, 4.0])
    assert value_at(x, y, 5.0).item() == pytest.approx(7.5, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    slope, intercept = np.polyfit(a, b, 1)
    assert value_at(a, b, -0.7).item() == pytest.approx(intercept - 0.7 * slope, abs=1e-10)


def test_value_at_the_mean_and_of_equal_lengths_is_the_mean() -> None:
    y = torch.tensor([1.0, 4.0, 4.0])
    assert value_at(torch.tensor([1, 2, 3]), y, 2.0).item() == pytest.approx(3.0)
    assert value_at(torch.tensor([7, 7, 7]), y, 99.0).item() == pytest.approx(3.0)


def _slow(outcomes: list[float], ours: list[int], theirs: list[int]) -> float:
    """The largest posterior on ever finer grids of (a, b), the formula written out; then the sigmoid of a."""
    difference = np.array(ours, dtype=float) - np.array(theirs, dtype=float)
    x, y = np.tanh(difference / difference.std()), np.array(outcomes)
    a, b, reach = 0.0, 0.0, 8.0
    for _ in range(12):
        aa, bb = np.meshgrid(np.linspace(a - reach, a + reach, 41), np.linspace(b - reach, b + reach, 41))
        z = aa[..., None] + bb[..., None] * x
        posterior = (y * -np.logaddexp(0, -z) + (1 - y) * -np.logaddexp(0, z)).sum(-1) - bb**2 / 2
        best = np.unravel_index(posterior.argmax(), posterior.shape)
        a, b, reach = aa[best], bb[best], reach / 5
    return 1 / (1 + math.exp(-a))


CASES = {
    "mixed": ([1, 0, 1, 1, 0, 0.5, 1, 0], [10, 5, 12, 30, 4, 9, 8, 20], [8, 9, 10, 10, 10, 9, 9, 9]),
    "the longer one always wins": ([1, 1, 1, 0, 0], [20, 30, 25, 5, 4], [10, 10, 10, 10, 10]),
    "all but one are won": ([1, 1, 1, 1, 0], [20, 30, 25, 25, 22], [10, 11, 12, 13, 14]),
    "ties only": ([0.5, 0.5, 0.5], [3, 9, 4], [5, 5, 5]),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_win_rate_against_a_grid_search(case: str) -> None:
    outcomes, ours, theirs = CASES[case]
    found = length_controlled_win_rate(torch.tensor(outcomes), torch.tensor(ours), torch.tensor(theirs))
    assert found == pytest.approx(_slow(outcomes, ours, theirs), abs=1e-6)


def test_length_alone_is_taken_away() -> None:
    """Field fault 47: wins that follow length by one logistic curve; ours are 20 tokens longer on average."""
    generator = torch.Generator().manual_seed(1)
    theirs = torch.randint(20, 60, (4000,), generator=generator)
    ours = theirs + torch.randint(-40, 80, (4000,), generator=generator)
    difference = (ours - theirs).double()
    chance = torch.sigmoid(3 * torch.tanh(difference / difference.std(unbiased=False)))
    wins = (torch.rand(4000, generator=generator, dtype=torch.float64) < chance).double()
    assert wins.mean().item() > 0.58
    # four standard errors of a win rate of 4,000 pairs: 4 * 0.5 / sqrt(4000) = 0.032
    assert length_controlled_win_rate(wins, ours, theirs) == pytest.approx(0.5, abs=0.032)


def test_models_in_turn_add_to_1() -> None:
    outcomes, ours, theirs = CASES["mixed"]
    one = length_controlled_win_rate(torch.tensor(outcomes), torch.tensor(ours), torch.tensor(theirs))
    other = length_controlled_win_rate(1 - torch.tensor(outcomes), torch.tensor(theirs), torch.tensor(ours))
    assert one + other == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_nothing_to_control_for(outcome: float) -> None:
    lengths = torch.tensor([3, 9, 4])
    assert length_controlled_win_rate(torch.full((3,), outcome), lengths, lengths.flip(0)) == outcome
    mixed = torch.tensor([1.0, 0.0, 1.0])
    assert length_controlled_win_rate(mixed, lengths + 2, lengths) == pytest.approx(2 / 3)


def test_weighted_fits_against_scikit_learn() -> None:
    """AlpacaEval's model as its own code fits it, with shares as targets: every row once as a win, once as a
    loss, weighted; here with the normal prior, an L2 penalty with C = 1."""
    draw = np.random.default_rng(0)
    outcomes, differences = draw.choice([0.0, 0.5, 1.0], size=80), draw.normal(30, 200, size=80)
    weights = draw.integers(0, 3, size=(3, 80)).astype(float)
    spread = differences.std(ddof=1)
    found = length_controlled_fits(
        torch.from_numpy(outcomes), torch.from_numpy(differences), torch.from_numpy(weights), spread
    )
    features = np.tanh(np.concatenate([differences, differences]) / spread)[:, None]
    for row in range(3):
        both = np.concatenate([weights[row] * outcomes, weights[row] * (1 - outcomes)])
        model = LogisticRegression(C=1.0, tol=1e-12, max_iter=10000)
        model.fit(features, np.repeat([1, 0], 80), both)
        expected = model.predict_proba(np.zeros((1, 1)))[0, 1]
        assert float(found[row]) == pytest.approx(expected, abs=1e-6)


def test_weighted_fits_without_anything_to_control_for_are_means() -> None:
    outcomes, weights = (
        torch.tensor([1.0, 0.0, 1.0]),
        torch.tensor([[1.0, 1.0, 2.0], [1.0, 0.0, 5.0], [0, 1, 0]]),
    )
    even = length_controlled_fits(outcomes, torch.zeros(3), weights, 0.0)
    assert even.tolist() == [0.75, 1.0, 0.0]
    # the second weighting has wins alone, the third a loss
    some = length_controlled_fits(outcomes, torch.tensor([1.0, -2.0, 3.0]), weights, 2.0)
    assert 0 < float(some[0]) < 1 and some[1:].tolist() == [1.0, 0.0]
