"""What `make mutate` found untested in rlhf/: numbers and edges that only a whole run had passed through."""

from __future__ import annotations

import math

import pytest

from instructgpt.rlhf.alarms import Alarm, Alarms, History, kl_runaway, over_optimisation
from instructgpt.rlhf.settings import PPOConfig


def _history(rows: list[dict[str, float]], batch: int = 4) -> History:
    history = History(batch=batch)
    for row in rows:
        history.add(row)
    return history


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


def test_a_run_without_lengths_has_no_runaway_by_length() -> None:
    rows = [{"kl": 60.0, "kl_reward": -1.0, "score_used": float(n), "score_std": 1.0} for n in range(8)]
    assert kl_runaway(_history(rows)) is None


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
