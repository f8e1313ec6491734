"""Alarms on real PPO in the enumerable world: silent on healthy runs, and each planted fault is heard.

The same rounds as in a run (`rlhf.round`), on tables (`doctor.tables`): 40 rounds take a few seconds.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import instructgpt.rlhf.rollout as rollout_module
import instructgpt.rlhf.round as round_module
from instructgpt.doctor.certificate import RUN, Problem, Setting, assemble, problem, table_models
from instructgpt.rlhf.alarms import Alarm, Alarms
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import episode_logprobs, sample_episodes
from instructgpt.rlhf.round import describe, judge, learn, sample

HEALTHY = dataclasses.replace(
    RUN, iterations=40, batch=512, minibatches=4, missing_eos_penalty=-1.0, ema=0.0, value_clip=1.0
)
"""The certificate's settings in smaller rounds. An unfinished reply counts -1 as in [L] and [N]: the scores
have mean 0 and variance 1, and without a price on it some of these worlds pay for replies that do not end."""
SETTING = Setting("flat", "structured", 0.2)


def _run(
    setting: Setting,
    seed: int,
    change: Callable[[Problem], Problem] = lambda found: found,
    **changes: Any,
) -> list[Alarm]:
    """The alarms of 40 rounds."""
    found = change(problem(setting, seed))
    config = dataclasses.replace(HEALTHY, **({"beta": setting.beta, "seed": seed} | changes))
    parts = assemble(found.world, *table_models(found, torch.device("cpu")), config)
    alarms, rung = Alarms(config), []
    first: float | None = None
    for iteration in range(config.iterations):
        judged = judge(parts, sample(parts, parts.prompts, config, iteration), config, config.beta)
        losses = learn(parts, judged, config, iteration)
        row = describe(judged, config.beta, first) | losses
        first = row["length"] if first is None else first
        rung += alarms.look(iteration + 1, row)
    return rung


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reference", ["flat", "peaked"])
@pytest.mark.parametrize(("rewards", "beta"), [("structured", 0.2), ("independent", 0.5)])
def test_silent_on_healthy_runs(reference: Any, rewards: Any, beta: float, seed: int) -> None:
    """Twenty runs of 40 rounds each: two kinds of reference and of rewards, five seeds."""
    assert _run(Setting(reference, rewards, beta), seed) == []


def _stale_sampler(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Field fault 12: replies are not samples of the policy; the sampler never gets its new weights."""
    kept: list[Any] = []

    def stale(policy: Any, *arguments: Any, **settings: Any) -> Any:
        kept[:] = kept or [copy.deepcopy(policy)]
        return sample_episodes(kept[0], *arguments, **settings)

    monkeypatch.setattr(round_module, "sample_episodes", stale)
    return {}


def _temperature_on_one_side(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Field fault 11: old and reference log-probs are of a sharper distribution than the update's."""

    def sharper(model: Any, episodes: Any, micros: Any, temperature: float, *rest: Any) -> Any:
        return episode_logprobs(model, episodes, micros, 0.5 * temperature, *rest)

    monkeypatch.setattr(rollout_module, "episode_logprobs", sharper)
    return {}


def _sign_of_kl(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Field fault 13: distance is paid for."""

    def wrong(rollout: Any, beta: float, missing_eos_penalty: float | None = None) -> Any:
        return shape_rewards(rollout, -beta, missing_eos_penalty)

    monkeypatch.setattr(round_module, "shape_rewards", wrong)
    return {"beta": 1.0}


def _scores(rewards: Callable[[Problem], torch.Tensor]) -> Callable[[Problem], Problem]:
    return lambda found: dataclasses.replace(found, rewards=rewards(found))


def _unfinished_pay(found: Problem) -> torch.Tensor:
    """1 more for each reply that does not end itself."""
    cut = (found.world.replies[:, -1] > 0).float()
    return found.rewards + cut


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], dict[str, Any]]] = {
    "negative_kl": _stale_sampler,
    "kl_runaway": _sign_of_kl,
    "entropy_collapse": lambda monkeypatch: {"beta": 0.001, "lr": 0.5},
    "value_divergence": lambda monkeypatch: {"value_lr": 20.0, "value_clip": 100.0},
    "eos_falling": lambda monkeypatch: {"change": _scores(_unfinished_pay), "missing_eos_penalty": None},
    "ratio_outliers": _temperature_on_one_side,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_faults_are_heard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a run that is otherwise the healthy one of seed 0."""
    assert name in {alarm.name for alarm in _run(SETTING, 0, **PLANTED[name](monkeypatch))}
