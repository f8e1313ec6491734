"""The simulation behind docs/results/coverage.md, small: intervals cover, and the truth is the truth."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import (
    SCENARIOS,
    SIZES,
    Covered,
    cover,
    draw,
    exact,
    mean_for,
    page,
    peeking,
    true_rate,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_the_true_win_rate_is_that_of_the_votes(scenario) -> None:
    mean = mean_for(scenario, 0.7)
    assert true_rate(scenario, mean) == pytest.approx(0.7, abs=1e-9)
    generator = np.random.default_rng(0)
    drawn = [draw(scenario, mean, 200, generator) for _ in range(150)]
    found = np.array([float(votes.outcomes.mean()) for votes in drawn])
    assert found.mean() == pytest.approx(0.7, abs=4 * found.std() / np.sqrt(150))
    assert any((votes.outcomes == 0.5).any() for votes in drawn) == (scenario.tie > 0)


@pytest.mark.parametrize("scenario", SCENARIOS[3:], ids=lambda scenario: scenario.title)
def test_intervals_cover_in_a_few_hundred(scenario) -> None:
    found = cover(scenario, 0.7, 50, 400, seed=1, beside=False)
    # 0.93 to 0.97, and three standard errors of a share of 400: 0.033
    assert 0.93 - 0.033 < found.ours < 0.97 + 0.033 and found.percentile is None


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("rate", [0.5, 0.9])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_intervals_cover(scenario, rate: float, n: int) -> None:
    found = cover(scenario, rate, n, 2000, seed=2, beside=False)
    # three standard errors of a share of 2,000 that is 0.95: 0.0146
    assert 0.93 - 0.0146 < found.ours < 0.97 + 0.0146


def test_exact_coverage_is_a_sum_of_binomial_chances() -> None:
    # n = 50, rate 1/2: the ends meet 1/2 where |wins - 25| is t sqrt(50 / 4 * 50 / 49) = 7.18, t = 2.00958
    assert exact(0.5, 50) == pytest.approx(
        stats.binom.cdf(32, 50, 0.5) - stats.binom.cdf(17, 50, 0.5), abs=1e-12
    )


def test_looking_again_and_again() -> None:
    fixed, sequence = peeking(500, 300, seed=0)
    # McPherson (1974): 200 looks at 5 % find a difference in over 40 %
    assert fixed > 0.25 and sequence < 0.05


def test_the_page_has_a_row_for_every_cell() -> None:
    found = [
        Covered(scenario, 0.5, n, 0.95, 0.1, 0.94, 0.7, 0.93 if n < 1000 else None)
        for scenario in SCENARIOS[:2]
        for n in SIZES
    ]
    text = page(found, (0.4, 0.02), 4000, 60.0)
    assert text.count("| **95.0%** |") == 6 and "finds one in **40.0%**" in text
    assert "Over the 3 rows with clusters and ties ours covers between 95.0% and 95.0%" in text
    assert "±0.7%" in text  # 1.96 * sqrt(0.95 * 0.05 / 4000)
