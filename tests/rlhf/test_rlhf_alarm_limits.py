"""What the alarms do at their limits: silent on one side, in which words they ring on the other; by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from instructgpt.rlhf.alarms import (
    Alarm,
    Alarms,
    History,
    entropy_collapse,
    eos_falling,
    kl_runaway,
    length_runaway,
    negative_kl,
    over_optimisation,
    ratio_outliers,
    value_divergence,
)
from instructgpt.rlhf.settings import PPOConfig

Find = Callable[[History], str | None]
Row = dict[str, float]

# Nothing moves, and without spread the standard errors are 0.
STILL: Row = {
    "kl": 0.0, "kl_std": 0.0, "kl_reward": 0.0, "score_used": 0.0, "score_std": 0.0, "length": 30.0,
    "eos_rate": 0.5, "entropy": 10.0, "value_error": 1.0, "explained_variance": 0.5, "ratio_mean": 1.0,
    "ratio_max": 1.0, "reward_disagreement": 0.25,
}  # fmt: skip


def _history(rows: list[Row], batch: int = 4) -> History:
    history = History(batch=batch)
    for row in rows:
        history.add(row)
    return history


def _stages(*rounds: tuple[int, Row], batch: int = 64) -> History:
    """So many rounds of each row; what a row leaves out is as in `STILL`."""
    return _history([STILL | row for number, row in rounds for _ in range(number)], batch)


# check -> what it sees at first, what still is silent later on, what rings, and with which words
LIMITS: dict[str, tuple[Find, Row, Row, Row, str]] = {
    # ten rounds of 64 with a spread of sqrt(640) / 4 = 6.3 have a standard error of 1/4: four are 1 nat
    "a negative KL, by noise": (
        negative_kl, {"kl_std": 640**0.5 / 4}, {"kl": -0.99}, {"kl": -1.01},
        "the mean KL of the last 10 rounds is -1.01 nats per reply",
    ),
    "50 nats in short replies": (
        kl_runaway, {"length": 30.0}, {"kl": 50.0}, {"kl": 60.0},
        "the KL is 60 nats per reply, 2 per token",
    ),
    "a nat per token": (
        kl_runaway, {"length": 64.0}, {"kl": 64.0}, {"kl": 80.0},
        "the KL is 80 nats per reply, 1.2 per token",
    ),
    "a price without a gain": (
        kl_runaway, {"kl": 3.0}, {"kl_reward": 0.0}, {"kl_reward": -0.5},
        "the KL of 3 nats costs 0.5 and has brought 0 in score",
    ),
    "a price above the gain": (
        kl_runaway, {"kl": 3.0}, {"score_used": 2.0, "kl_reward": -2.0},
        {"score_used": 2.0, "kl_reward": -2.25},
        "the KL of 3 nats costs 2.25 and has brought 2 in score",
    ),
    "a tenth of the entropy": (
        entropy_collapse, {"entropy": 10.0}, {"entropy": 1.0}, {"entropy": 0.97},
        "the entropy is 0.97 nats per token, at the start it was 10",
    ),
    "twice the length": (
        length_runaway, {"length": 20.0}, {"length": 40.0}, {"length": 41.0},
        "a reply has 41 tokens, at the start it had 20",
    ),
    "a quarter of the length": (
        length_runaway, {"length": 40.0}, {"length": 10.0}, {"length": 9.0},
        "a reply has 9 tokens, at the start it had 40",
    ),
    "ten tokens more": (
        length_runaway, {"length": 1.0}, {"length": 10.0}, {"length": 11.0},
        "a reply has 11 tokens, at the start it had 1",
    ),
    "twice the disagreement": (
        over_optimisation, {}, {"score_used": 3.0, "reward_disagreement": 0.5},
        {"score_used": 3.0, "reward_disagreement": 0.75},
        "the score rose by 3 and the spread over the members from 0.25 to 0.75",
    ),
    "disagreement and a gain": (
        over_optimisation, {}, {"score_used": 0.0, "reward_disagreement": 0.75},
        {"score_used": 0.5, "reward_disagreement": 0.75},
        "the score rose by 0.5 and the spread over the members from 0.25 to 0.75",
    ),
    # the scores' variance is 2 ** 2; above it the values are worse than a constant
    "a value error of the scores' variance": (
        value_divergence, {"score_std": 2.0, "value_error": 0.5},
        {"value_error": 4.0, "explained_variance": -0.5}, {"value_error": 5.0, "explained_variance": -0.5},
        "the squared value error is 5, at its best it was 0.5",
    ),
    "four times the best value error": (
        value_divergence, {}, {"value_error": 4.0, "explained_variance": -0.5},
        {"value_error": 4.5, "explained_variance": -0.5},
        "the squared value error is 4.5, at its best it was 1",
    ),
    "values worse than a constant": (
        value_divergence, {}, {"value_error": 6.0, "explained_variance": 0.0},
        {"value_error": 6.0, "explained_variance": -0.1},
        "the squared value error is 6, at its best it was 1",
    ),
    "values that never were any good": (
        value_divergence, {}, {"value_error": 3.0, "explained_variance": -1.0},
        {"value_error": 3.0, "explained_variance": -1.5},
        "the values explain -1.5 of the returns' variance, a constant explains 0",
    ),
    "a fifth fewer ends": (
        eos_falling, {"eos_rate": 0.25}, {"eos_rate": 0.05}, {"eos_rate": 0.04},
        "4% of the replies end themselves, at the start it was 25%",
    ),
    "one ratio of 100": (
        ratio_outliers, {}, {"ratio_max": 100.0}, {"ratio_max": 101.0},
        "a token became 101 times as probable within the round",
    ),
    "a mean ratio of 0.9": (
        ratio_outliers, {}, {"ratio_mean": 0.91}, {"ratio_mean": 0.89},
        "the mean ratio of the last 5 rounds is 0.89",
    ),
}  # fmt: skip


@pytest.mark.parametrize("limit", sorted(LIMITS))
def test_silent_at_its_limit_and_rings_beyond(limit: str) -> None:
    find, start, silent, rings, words = LIMITS[limit]
    assert find(_stages((5, start), (10, start | silent))) is None
    assert find(_stages((5, start), (10, start | rings))) == words


def test_exactly_four_standard_errors_are_noise() -> None:
    """Ten rounds of ten replies of spread 10 have a standard error of 10 / sqrt(100) = 1."""
    assert negative_kl(_stages((10, {"kl": -4.0, "kl_std": 10.0}), batch=10)) is None
    assert negative_kl(_stages((10, {"kl": -4.01, "kl_std": 10.0}), batch=10)) is not None


def test_in_a_small_batch_fewer_ends_may_be_noise() -> None:
    """Half of 16 replies end: the difference of 3 and of 5 rounds has a standard error of
    sqrt(0.5 x 0.5 x (1/3 + 1/5) / 16) = 0.0913, and four are 0.365.
    """
    assert eos_falling(_stages((3, {}), (5, {"eos_rate": 0.14}), batch=16)) is None
    assert eos_falling(_stages((3, {}), (5, {"eos_rate": 0.13}), batch=16)) is not None


NEEDED: list[tuple[Find, Row, tuple[str, ...]]] = [
    (negative_kl, {"kl": -1.0}, ("kl",)),
    (kl_runaway, {"kl_reward": -1.0}, ("kl", "kl_reward", "length", "score_used")),
    (entropy_collapse, {"entropy": 0.1}, ("entropy",)),
    (length_runaway, {"length": 90.0}, ("length",)),
    (
        over_optimisation,
        {"reward_disagreement": 1.0, "score_used": 1.0},
        ("reward_disagreement", "score_used"),
    ),
    (
        value_divergence,
        {"value_error": 9.0, "explained_variance": -0.5},
        ("value_error", "explained_variance", "score_std"),
    ),
    (eos_falling, {"eos_rate": 0.1}, ("eos_rate",)),
    (ratio_outliers, {"ratio_mean": 2.0}, ("ratio_mean",)),
]


def _seen(find: Find, later: Mapping[str, float], dropped: str, rounds: int) -> str | None:
    """What is found after 15 rounds if one metric was logged in the first `rounds` only."""
    rows = [STILL | (later if number >= 5 else {}) for number in range(15)]
    for row in rows[rounds:]:
        del row[dropped]
    return find(_history(rows, batch=64))


@pytest.mark.parametrize(
    ("find", "later", "dropped"),
    [(find, later, name) for find, later, names in NEEDED for name in names],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_without_one_of_its_metrics_a_check_finds_nothing(find: Find, later: Row, dropped: str) -> None:
    """Nor where the metric was logged long enough for a start, and too short for a now."""
    assert _seen(find, later, dropped, 15) is not None
    assert _seen(find, later, dropped, 0) is None
    if dropped != "score_std":  # of which only the start is looked at
        assert _seen(find, later, dropped, 4) is None


def test_the_start_is_a_mean_of_three_rounds_and_not_of_two() -> None:
    rows = [{"length": value} for value in (3.0, 6.0, 9.0, 30.0)]
    assert _history(rows[:2]).start("length") is None
    assert _history(rows[:3]).start("length") == 6.0
    assert _history(rows).start("length") == 6.0


def test_standard_error_by_hand() -> None:
    # spreads 3 and 4 over two rounds of 4 replies: sqrt((9 + 16) / 2 / (2 * 4)) = 1.25
    history = _history([{"kl_std": 3.0}, {"kl_std": 4.0}])
    assert history.error("kl_std", 2) == pytest.approx(1.25)


def test_gain_by_hand() -> None:
    # the first three scores have mean 1, the last five mean 4; spreads 3 in rounds of 4 replies throughout:
    # errors sqrt(9 / 12) and sqrt(9 / 20), together sqrt(0.75 + 0.45)
    rows = [{"score_used": 1.0, "score_std": 3.0}] * 3 + [{"score_used": 4.0, "score_std": 3.0}] * 5
    gain = _history(rows).gain()
    assert gain == (3.0, pytest.approx(math.sqrt(1.2)))


def test_a_judge_that_stays_is_no_over_optimisation() -> None:
    """Neither a judge at the edge of its noise nor a reward that did not rise."""
    # the noise is 3 * hypot(0.3, 0.4) = 1.5
    measured = {"eval_judge": 8.0, "eval_reward": 1.0, "eval_judge_se": 0.3}
    for judge, reward in ((6.5, 2.0), (1.0, 1.0)):
        later = {"eval_judge": judge, "eval_reward": reward, "eval_judge_se": 0.4}
        assert over_optimisation(_history([measured, later, later])) is None
    fallen = {"eval_judge": 6.4, "eval_reward": 1.1, "eval_judge_se": 0.4}
    assert "from 8 to 6.4" in str(over_optimisation(_history([measured, fallen, fallen])))


def test_an_alarm_reads_as_sentences() -> None:
    alarm = Alarm(7, "toy", "three of four are wrong", "nobody looked", "look")
    expected = "alarm toy at round 7: three of four are wrong. Nobody looked. To mend it: look."
    assert str(alarm) == expected


def test_an_alarm_rings_again_only_after_ten_quiet_rounds() -> None:
    """A sign in round 1; again in round 11 (ten later: still the same alarm) and in round 22 (a new one)."""
    alarms = Alarms(PPOConfig(batch=64))
    rung = [
        alarm.step
        for step in range(1, 30)
        for alarm in alarms.look(step, {"skipped_steps": 1.0 if step in (1, 11, 22) else 0.0})
    ]
    assert rung == [1, 22]
    assert alarms.counts == {"non_finite": 2}
