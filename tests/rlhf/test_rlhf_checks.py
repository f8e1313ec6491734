"""checks.py: silent on a healthy start, and each planted fault is refused with its cause."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from instructgpt.errors import CheckError
from instructgpt.rlhf.advantage import estimate
from instructgpt.rlhf.checks import check_start, check_value_start
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import sample_episodes, score_rollout
from instructgpt.scoring.reward import load_reward
from instructgpt.text.chat import render_prompt


@pytest.fixture
def start(tiny, models, prompts):
    """A real first round: sampled from the policy, V a copy of the reward model."""

    def make(config, sampling_temperature=None):
        policy, reference, _ = models
        reward = load_reward(str(tiny.folder / "reward"))
        ids = [render_prompt(tiny.tokenizer, prompt.messages) for prompt in prompts[:8]]
        episodes = sample_episodes(
            policy,
            prompts[:8],
            ids,
            stop_ids=tiny.tokenizer.stop_ids,
            max_new=6,
            temperature=sampling_temperature or config.temperature,
            seed=0,
            iteration=0,
        )
        value = load_reward(str(tiny.folder / "reward")).model
        made = score_rollout(episodes, policy, reference, value, reward, tiny.tokenizer, config)
        advantages, _ = estimate(made, shape_rewards(made, 0.1), gamma=1.0, lam=0.95)
        return policy, value, made, advantages

    return make


@pytest.mark.parametrize("old_logprobs", ["update", "rollout"])
def test_a_healthy_start(tiny, start, learner_of, old_logprobs) -> None:
    """Invariants 1 and 7."""
    config = tiny.config(old_logprobs=old_logprobs, temperature=0.8)
    policy, value, rollout, advantages = start(config)
    found = check_start(learner_of(policy, value, config), rollout, advantages, config)
    assert found["ratio_error"] < 1e-4 and found["rollout_drift"] < 1e-4
    assert found["approx_kl"] < 1e-8 and found["clip_fraction"] == 0.0
    assert check_value_start(value, rollout, config) < 1e-4


def test_invariant_7_value_of_the_last_token_is_the_score(tiny, start) -> None:
    """Invariant 7, field fault 20: a slow loop over single replies, not the check itself."""
    _, value, rollout, _ = start(tiny.config())
    for row, sequence in enumerate(rollout.episodes.sequences()):
        ids = torch.tensor(sequence)
        with torch.no_grad():
            v = value.score(value(ids, torch.arange(len(ids)), [len(ids)]))[-1]
        assert v.item() == pytest.approx(rollout.scores[row].item(), abs=1e-5)


def test_temperature_on_one_side_is_refused(tiny, start, learner_of) -> None:
    """Field fault 11."""
    for old_logprobs, message in (
        ("update", "not drawn from the policy"),
        ("rollout", "sampler's log-probs"),
    ):
        config = tiny.config(old_logprobs=old_logprobs)
        policy, value, rollout, advantages = start(config, sampling_temperature=0.7)
        with pytest.raises(CheckError, match=message):
            check_start(learner_of(policy, value, config), rollout, advantages, config)


def test_dropout_in_the_update_is_refused(tiny, start, learner_of, monkeypatch) -> None:
    """Field faults 9 and 10: dropout in the training pass only."""
    config = tiny.config()
    policy, value, rollout, advantages = start(config)
    clean = policy.transformer.forward
    monkeypatch.setattr(
        policy.transformer, "forward", lambda *arguments: clean(*arguments[:5], 0.2, *arguments[6:])
    )
    with pytest.raises(CheckError, match="ratio is off 1"):
        check_start(learner_of(policy, value, config), rollout, advantages, config)


def test_one_ratio_that_is_too_small_is_seen(tiny, start, learner_of) -> None:
    config = tiny.config()
    policy, value, rollout, advantages = start(config)
    rollout.old_logprobs[1, 0] += 0.01
    with pytest.raises(CheckError, match="ratio is off 1"):
        check_start(learner_of(policy, value, config), rollout, advantages, config)


def test_weights_that_changed_after_the_rollout_are_refused(tiny, start, learner_of) -> None:
    config = tiny.config()
    policy, value, rollout, advantages = start(config)
    with torch.no_grad():
        policy.transformer.embedding.weight.mul_(1.01)
    with pytest.raises(CheckError, match="ratio is off 1"):
        check_start(learner_of(policy, value, config), rollout, advantages, config)


def test_a_fresh_value_head_is_refused(tiny, start) -> None:
    """Field fault 20: V said to come from the reward model, but its head or bias did not."""
    _, value, rollout, _ = start(tiny.config())
    for spoil in (
        lambda: value.head.weight.data.normal_(),
        lambda: setattr(value, "reward_bias", torch.tensor(0.0)),
    ):
        saved, bias = value.head.weight.data.clone(), value.reward_bias
        spoil()
        with pytest.raises(CheckError, match="value network"):
            check_value_start(value, rollout, tiny.config())
        value.head.weight.data.copy_(saved)
        value.reward_bias = bias


def test_nan_is_never_within_tolerance(tiny, start, learner_of) -> None:
    config = tiny.config()
    policy, value, rollout, advantages = start(config)
    broken = dataclasses.replace(rollout, old_logprobs=rollout.old_logprobs * float("nan"))
    with pytest.raises(CheckError):
        check_start(learner_of(policy, value, config), broken, advantages, config)
    with pytest.raises(CheckError):
        check_value_start(value, dataclasses.replace(rollout, scores=rollout.scores * float("nan")), config)
