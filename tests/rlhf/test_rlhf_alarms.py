"""alarms.py: each alarm rings on its planted fault, once, and on nothing else; the history is saved whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from instructgpt.rlhf.alarms import CHECKS, Alarm, Alarms
from instructgpt.rlhf.settings import PPOConfig

CONFIG = PPOConfig(batch=64)
Series = dict[str, Callable[[int], float]]

# A run that goes well: 64 replies a round, scores of spread 1 that rise by 1, KL up to 3 nats at 0.1 a nat.
HEALTHY: Series = {
    "kl": lambda n: 3 * (1 - math.exp(-n / 10)),
    "kl_std": lambda n: 1.5,
    "kl_reward": lambda n: -0.3 * (1 - math.exp(-n / 10)),
    "score_used": lambda n: 1 - math.exp(-n / 10) + 0.1 * math.sin(n),
    "score_std": lambda n: 1.0,
    "length": lambda n: 30 + 5 * (1 - math.exp(-n / 10)) + math.cos(n),
    "eos_rate": lambda n: 0.9 + 0.05 * math.sin(3 * n),
    "entropy": lambda n: 2.0 * math.exp(-n / 60),
    "value_error": lambda n: 0.3 + math.exp(-n / 5),
    "explained_variance": lambda n: 0.5 - math.exp(-n / 5),
    "ratio_mean": lambda n: 1 + 0.01 * math.sin(n),
    "ratio_max": lambda n: 1.5,
    "reward_disagreement": lambda n: 0.2 + 0.002 * n,
    "skipped_steps": lambda n: 0.0,
}


def _row(number: int, changes: Series) -> dict[str, float]:
    return {name: value(number) for name, value in (HEALTHY | changes).items()}


def _rung(changes: Series, rounds: int = 40, config: PPOConfig = CONFIG) -> list[Alarm]:
    alarms = Alarms(config)
    return [a for n in range(rounds) for a in alarms.look(n + 1, _row(n, changes))]


def _judged(judge: Callable[[int], float], reward: Callable[[int], float]) -> Series:
    """A judge's measurement every round; a standard error of 0.05."""
    return {"eval_judge": judge, "eval_reward": reward, "eval_judge_se": lambda n: 0.05}


FAULTS: dict[str, Series] = {
    # below 0 by 0.5 nats; the standard error over 10 rounds of 64 is 1.5 / sqrt(640) = 0.06
    "negative_kl": {"kl": lambda n: -0.5},
    # the score stays, the price grows to 2
    "kl_runaway": {"score_used": lambda n: 0.0, "kl_reward": lambda n: -0.05 * n},
    "entropy_collapse": {"entropy": lambda n: 2.0 if n < 15 else 0.1},
    "length_runaway": {"length": lambda n: 30.0 + 2 * n},
    "over_optimisation": _judged(lambda n: 1 - 0.05 * n, lambda n: 0.1 * n),
    "value_divergence": {
        "value_error": lambda n: 0.3 if n < 15 else 2.0,
        "explained_variance": lambda n: 0.5 if n < 15 else -1.0,
    },
    "eos_falling": {"eos_rate": lambda n: max(0.2, 0.95 - 0.02 * n)},
    "ratio_outliers": {"ratio_max": lambda n: 1.5 if n != 20 else 500.0},
    "non_finite": {"skipped_steps": lambda n: float(n == 20)},
}

OTHER_FACES: dict[str, tuple[str, Series]] = {
    "far away however well it pays": (
        "kl_runaway",
        {"kl": lambda n: 3.0 * n, "score_used": lambda n: 2.0 * n},  # 60 nats in 35 tokens
    ),
    "members disagree": ("over_optimisation", {"reward_disagreement": lambda n: 0.2 + 0.02 * n}),
    "replies shrink": ("length_runaway", {"length": lambda n: max(5.0, 30.0 - n)}),
    "values that never follow": (
        "value_divergence",
        {"value_error": lambda n: 50.0 / (1 + n), "explained_variance": lambda n: -9.0 / (1 + n / 20)},
    ),
    "a mean ratio that is not 1": ("ratio_outliers", {"ratio_mean": lambda n: 1.0 if n < 15 else 1.3}),
}

HARMLESS: dict[str, Series] = {
    "nothing": {},
    "nothing moves at all, with the rounding of two passes": {
        "kl": lambda n: -2e-5, "kl_std": lambda n: 1e-6, "kl_reward": lambda n: 2e-6,
        "score_used": lambda n: 0.0, "score_std": lambda n: 0.0, "ratio_max": lambda n: 1.0,
    },
    "a KL below 0 by noise": {"kl": lambda n: -0.1, "kl_std": lambda n: 2.0},  # standard error 0.08
    "one bad round of each": {
        "kl": lambda n: -9.0 if n == 20 else 3.0, "length": lambda n: 99.0 if n == 20 else 30.0,
        "value_error": lambda n: 3.0 if n == 20 else 0.3,
        "eos_rate": lambda n: 0.3 if n == 20 else 0.9, "ratio_mean": lambda n: 1.4 if n == 20 else 1.0,
    },
    "a price that is earned": {"score_used": lambda n: 0.1 * n, "kl_reward": lambda n: -0.05 * n},
    "twice a token": {"length": lambda n: 1.0 + 0.1 * n},
    "values that follow after a while": {
        "value_error": lambda n: 50.0 * math.exp(-n / 2),
        "explained_variance": lambda n: 0.8 - 6 * math.exp(-n / 2),
    },
    "all replies are cut from the start": {"eos_rate": lambda n: 0.0},
    "judge and reward rise": _judged(lambda n: 0.1 * n, lambda n: 0.1 * n),
    "judge and reward fall": _judged(lambda n: -0.1 * n, lambda n: -0.1 * n),
    "a judge that wavers by its own noise": _judged(lambda n: 0.1 * math.sin(n), lambda n: 0.1 * n),
    "a value error that grows with the scores": {"value_error": lambda n: 0.3 + 0.1 * n},
    "a small value error that grows": {
        "value_error": lambda n: 1e-4 * (1 + n), "explained_variance": lambda n: -1.0,
    },
    "disagreement without a gain": {
        "reward_disagreement": lambda n: 0.2 + 0.02 * n,
        "score_used": lambda n: 0.0, "kl_reward": lambda n: 0.0,
    },
}  # fmt: skip


def test_every_check_has_a_planted_fault() -> None:
    assert {check.name for check in CHECKS} == set(FAULTS)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_planted_fault_rings_its_alarm_once(name: str) -> None:
    """Field faults 12, 21 and 23; the alarm has cause and cure in one line."""
    (alarm,) = _rung(FAULTS[name])
    assert alarm.name == name
    assert [(c.cause, c.cure) for c in CHECKS if c.name == name] == [(alarm.cause, alarm.cure)]
    assert "\n" not in str(alarm) and alarm.cause[1:] in str(alarm)
    assert str(alarm).startswith(f"alarm {name} at round {alarm.step}: ")
    assert str(alarm).endswith(f"To mend it: {alarm.cure}.")


@pytest.mark.parametrize("face", sorted(OTHER_FACES))
def test_other_faces_of_a_fault(face: str) -> None:
    name, changes = OTHER_FACES[face]
    assert [alarm.name for alarm in _rung(changes)] == [name]


@pytest.mark.parametrize("case", sorted(HARMLESS))
def test_silent_where_nothing_is_wrong(case: str) -> None:
    assert _rung(HARMLESS[case]) == []


def test_when_it_rings() -> None:
    """The KL is looked at over ten rounds, a change against the start over five, a skipped step at once."""
    steps = {name: _rung(changes)[0].step for name, changes in FAULTS.items()}
    assert steps["negative_kl"] == 10
    # from n = 15 on it is 0.1: the mean of n = 14 .. 18 is 0.48, that of 15 .. 19 is 0.1; the limit is 0.2
    assert steps["entropy_collapse"] == 20
    assert steps["ratio_outliers"] == 21 and steps["non_finite"] == 21
    # start (30 + 32 + 34) / 3 = 32; rounds n-5 .. n-1 have 30 + 2 (n - 3) on average; above 64 from n = 21 on
    assert steps["length_runaway"] == 21


def test_the_standard_error_decides() -> None:
    """-0.2 nats, spread 3: ten rounds of 64 have a standard error of 0.119, ten of 4,096 one of 0.015."""
    planted: Series = {"kl": lambda n: -0.2, "kl_std": lambda n: 3.0}
    assert _rung(planted) == []
    assert [alarm.name for alarm in _rung(planted, config=PPOConfig(batch=4096))] == ["negative_kl"]


def test_an_alarm_rings_again_after_ten_quiet_rounds() -> None:
    def skipped(*rounds: int) -> list[int]:
        changes: Series = {"skipped_steps": lambda n: float(n + 1 in rounds)}
        return [alarm.step for alarm in _rung(changes)]

    assert skipped(5, 6, 7, 16, 26) == [5]  # never ten rounds of silence between them
    assert skipped(5, 15, 26) == [5, 26]


def test_missing_metrics_are_no_fault() -> None:
    """A policy that rests has none; a run without a judge or an ensemble has none of theirs."""
    alarms = Alarms(CONFIG)
    for n in range(30):
        row = _row(n, {})
        for name in ("entropy", "ratio_mean", "ratio_max", "reward_disagreement"):
            del row[name]
        assert alarms.look(n + 1, row) == []
    assert Alarms(CONFIG).look(1, {}) == []


@pytest.mark.parametrize("name", sorted(FAULTS))
@pytest.mark.parametrize("cut", [3, 12, 22])
def test_saved_and_restored_it_rings_the_same(name: str, cut: int) -> None:
    """Field fault 32: the state goes through JSON, as in a checkpoint."""
    alarms = Alarms(CONFIG)
    rung = [a for n in range(cut) for a in alarms.look(n + 1, _row(n, FAULTS[name]))]
    restored = Alarms(CONFIG, json.loads(json.dumps(alarms.state())))
    rung += [a for n in range(cut, 40) for a in restored.look(n + 1, _row(n, FAULTS[name]))]
    assert rung == _rung(FAULTS[name])
    assert restored.counts == {name: 1}


def test_the_state_does_not_grow() -> None:
    alarms = Alarms(CONFIG)
    sizes = []
    for n in range(200):
        alarms.look(n + 1, _row(n, {}))
        sizes.append(len(json.dumps(alarms.state())))
    assert max(sizes[50:]) < 1.1 * sizes[20]
