"""Sample sizes against published ones, by hand, and against a simulation of the test itself."""

import math

import numpy as np
import pytest

from instructgpt.maths.power import design_effect, detectable, outcome_variance, power_of, prompts_needed


def test_variance_of_an_outcome_by_hand() -> None:
    # wins 0.5, ties 0.2, losses 0.3: mean 0.6, E[y^2] = 0.5 + 0.05, less 0.36
    assert outcome_variance(0.6, 0.2) == pytest.approx(0.19, abs=1e-15)
    assert outcome_variance(0.5, 1.0) == 0.0
    assert outcome_variance(0.6) == pytest.approx(0.24, abs=1e-15)
    for win_rate, ties in ((0.9, 0.3), (0.12, 0.3), (0.5, 1.1), (0.5, -0.1)):
        with pytest.raises(ValueError, match="ties"):
            outcome_variance(win_rate, ties)


def test_prompts_needed_is_the_textbooks() -> None:
    # Fleiss, Levin and Paik (2003), (2.14): ((1.959964 * 0.5 + 0.841621 * sqrt(0.6 * 0.4)) / 0.1)^2 = 193.85
    assert prompts_needed(0.6) == 194
    assert prompts_needed(0.4) == 194
    # ((1.959964 * 0.5 + 1.281552 * sqrt(0.55 * 0.45)) / 0.05)^2 = 1046.8
    assert prompts_needed(0.55, power=0.9) == 1047
    with pytest.raises(ValueError, match="one half"):
        prompts_needed(0.5)


def test_votes_and_ties_change_what_is_needed() -> None:
    # three votes that agree as two in five do: (1 + 2 * 0.4) / 3 = 0.6 of the prompts
    assert design_effect(3, 0.4) == pytest.approx(1.8)
    assert prompts_needed(0.6, votes=3, correlation=0.4) == math.ceil(193.85 * 0.6)
    assert prompts_needed(0.6, votes=5, correlation=1.0) == 194
    # ties: sqrt(0.25 - 0.05) and sqrt(0.24 - 0.05) in place of 0.5 and 0.489898
    expected = ((1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.19)) / 0.1) ** 2
    assert prompts_needed(0.6, ties=0.2) == math.ceil(expected)


def test_what_is_detectable_is_what_is_needed() -> None:
    found = detectable(194)
    assert found == pytest.approx(0.6, abs=1e-4)
    assert power_of(194, found) == pytest.approx(0.8, abs=1e-6)
    assert detectable(3, ties=0.5) == 0.75  # three prompts find nothing
    assert power_of(10, 1.0) == 1.0 and power_of(3, 1.0) == 0.0  # 0.5 sqrt(3) = 0.87 < 0.98


def test_power_in_simulation() -> None:
    draw = np.random.default_rng(0)
    values = draw.choice([0.0, 0.5, 1.0], p=[0.3, 0.2, 0.5], size=(20000, 150))  # win rate 0.6
    found = np.abs(values.mean(1) - 0.5) > 1.959964 * values.std(1) / math.sqrt(150)
    # three standard errors of a share of 20,000, and a percent for the normal approximation
    assert found.mean() == pytest.approx(power_of(150, 0.6, ties=0.2), abs=0.02)


def test_without_a_difference_it_finds_one_as_often_as_it_may() -> None:
    assert power_of(100, 0.5, level=0.9) == pytest.approx(0.1, abs=1e-12)
    assert power_of(100, 0.5, ties=1.0) == 0.0  # nothing but ties: nothing is ever found


def test_another_level_is_the_textbooks_too() -> None:
    # ((2.575829 * 0.5 + 0.841621 * sqrt(0.6 * 0.4)) / 0.1)^2 = 289.1
    assert prompts_needed(0.6, level=0.99) == 290
    assert detectable(290, level=0.99) == pytest.approx(0.6, abs=2e-4)


def test_votes_are_independent_unless_told() -> None:
    assert power_of(50, 0.6, votes=3) == pytest.approx(power_of(150, 0.6), abs=1e-12)
    assert prompts_needed(0.6, votes=4) == math.ceil(193.85 / 4)
    assert detectable(50, votes=3) == pytest.approx(detectable(150), abs=1e-8)
    # votes that all agree are one
    assert detectable(150, votes=3, correlation=1.0) == pytest.approx(detectable(150), abs=1e-8)


def test_a_power_that_is_just_reached_is_enough() -> None:
    found = prompts_needed(0.6, power=power_of(100, 0.6))
    assert found == 100 and isinstance(found, int)
    assert detectable(30, power=power_of(30, 0.75)) == 0.75


def test_a_small_power_is_found_where_certain_wins_have_none() -> None:
    """With three prompts the power rises, and falls to nothing where every win is certain."""
    assert power_of(3, 1.0) == 0.0 < 0.15
    found = detectable(3, power=0.15)
    assert 0.5 < found < 1.0 and power_of(3, found) == pytest.approx(0.15, abs=1e-6)
