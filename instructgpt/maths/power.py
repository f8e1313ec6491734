"""How many prompts a comparison needs: power of a two-sided test that a win rate is not one half."""

import math
from statistics import NormalDist

LEVEL, POWER = 0.95, 0.8
_NORMAL = NormalDist()


def outcome_variance(win_rate: float, ties: float = 0.0) -> float:
    """Variance of an outcome that is 1, 0 or, with probability `ties`, 1/2, and has mean `win_rate`.

    E[y^2] = P(win) + ties / 4 with P(win) = win_rate - ties / 2.

    Raises:
        ValueError: so many ties leave no room for that win rate.
    """
    if not 0 <= ties <= 1 or not ties / 2 <= win_rate <= 1 - ties / 2:
        raise ValueError(f"a win rate of {win_rate:g} can't have {ties:g} ties")
    return win_rate * (1 - win_rate) - ties / 4


def design_effect(votes: float, correlation: float) -> float:
    """How many times the variance of a prompt's mean over `votes` votes is that of independent ones; two
    votes on one prompt have this correlation (Kish 1965)."""
    return 1 + (votes - 1) * correlation


def power_of(
    prompts: float,
    win_rate: float,
    ties: float = 0.0,
    votes: float = 1.0,
    correlation: float = 0.0,
    level: float = LEVEL,
) -> float:
    """Probability that the test finds a difference when the win rate is `win_rate`; normal approximation,
    the variance under the hypothesis being that of a win rate of one half with as many ties."""
    effect = design_effect(votes, correlation) / votes
    null = math.sqrt(outcome_variance(0.5, ties) * effect)
    true = math.sqrt(outcome_variance(win_rate, ties) * effect)
    reach = _NORMAL.inv_cdf((1 + level) / 2) * null
    shift = abs(win_rate - 0.5) * math.sqrt(prompts)
    if true == 0:
        return float(shift > reach)
    return _NORMAL.cdf((shift - reach) / true) + _NORMAL.cdf((-shift - reach) / true)


def prompts_needed(
    win_rate: float,
    ties: float = 0.0,
    votes: float = 1.0,
    correlation: float = 0.0,
    level: float = LEVEL,
    power: float = POWER,
) -> int:
    """Fewest prompts with which the test has at least this power.

    Raises:
        ValueError: the win rate is one half, of which no number of prompts makes a difference.
    """
    if win_rate == 0.5:
        raise ValueError("a win rate of one half is no difference to find")

    def enough(prompts: int) -> bool:
        return power_of(prompts, win_rate, ties, votes, correlation, level) >= power

    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(
    prompts: int,
    ties: float = 0.0,
    votes: float = 1.0,
    correlation: float = 0.0,
    level: float = LEVEL,
    power: float = POWER,
) -> float:
    """The smallest win rate above one half that so many prompts find with this power; 1 less half the ties
    where they find none."""
    low, high = 0.5, 1 - ties / 2
    while high - low > 1e-9:
        middle = (low + high) / 2
        found = power_of(prompts, middle, ties, votes, correlation, level) >= power
        low, high = (low, middle) if found else (middle, high)
    return high
