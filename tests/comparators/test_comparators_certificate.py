"""RLOO and A2C maximise the certificate's objective on a world whose optimum is known exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import instructgpt.comparators.a2c as a2c
import instructgpt.comparators.rloo as rloo
from instructgpt.comparators.prepare import Parts
from instructgpt.comparators.rounds import check_start, sample_groups, score
from instructgpt.comparators.settings import A2CConfig, RLOOConfig
from instructgpt.doctor.certificate import MAX_NEW, Problem, Setting, assemble, problem, table_models
from instructgpt.doctor.tables import policy_logits, world_tokenizer
from instructgpt.maths.policy_gradient import leave_one_out
from instructgpt.rlhf.alarms import Alarms
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.round import judge
from instructgpt.runtime.optim import adamw
from instructgpt.scoring.reward import RewardModel

CPU = torch.device("cpu")
EASY = Setting("flat", "structured", 0.5)
RUN: dict[str, Any] = {
    "iterations": 40, "batch": 512, "max_new": MAX_NEW, "beta": EASY.beta, "lr": 0.1, "warmup": 0,
    "lr_schedule": "linear", "grad_clip": 0.0, "eps": 1e-8, "max_tokens": 16384, "max_active": 1024,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Problem:
    return problem(EASY, 0)


def _share(found: Problem, policy) -> float:
    return found.share(found.world.reply_logprobs(policy_logits(policy)))


def rloo_share(found: Problem, sign: float = 1.0) -> float:
    """The share that RLOO reaches; `sign` -1 turns its advantages around."""
    policy, reference, reward = table_models(found, CPU)
    config = RLOOConfig(samples=4, **RUN)
    ppo, tokenizer = config.ppo, world_tokenizer(found.world)
    prompts = assemble(found.world, policy, reference, reward, ppo).prompts
    optimizer = adamw(policy, config.lr, (0.9, 0.95), config.eps)
    scorer = RewardModel(reward, tokenizer)
    parts = Parts(tokenizer, policy, reference, optimizer, scorer, prompts, Alarms(ppo))
    for iteration in range(config.iterations):
        rollout = score(parts, sample_groups(policy, tokenizer, prompts, ppo, iteration, 4), ppo)
        if iteration == 0:
            check_start(policy, rollout, ppo, "rloo")
        rewards = shape_rewards(rollout, config.beta)
        advantages = sign * leave_one_out(rewards.per_token.sum(1), 4)
        rloo.update(parts, rollout, advantages, config, iteration)
    return _share(found, policy)


def test_rloo_comes_near_the_optimum(found) -> None:
    assert 0.9 < rloo_share(found) <= 1.0
    assert rloo_share(found, sign=-1.0) < 0.0


def test_a2c_comes_near_the_optimum(found) -> None:
    policy, reference, reward = table_models(found, CPU)
    config = A2CConfig(value_lr=0.2, value_warmup=3, **RUN)
    ppo = config.ppo
    parts = assemble(found.world, policy, reference, reward, ppo)
    for iteration in range(config.iterations):
        episodes = sample_groups(policy, parts.tokenizer, parts.prompts, ppo, iteration)
        a2c.update(parts.learner, judge(parts, episodes, ppo, config.beta), config, iteration)
    assert 0.9 < _share(found, policy) <= 1.0
