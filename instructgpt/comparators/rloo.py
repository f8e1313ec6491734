"""Verb `rloo`: REINFORCE leave-one-out (arXiv:2402.14740).

A whole reply is one action. Its reward is the score less beta times its KL (k1 over the reply), its baseline
the mean reward of the other k - 1 replies to the same prompt; no value network, no clipping.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from instructgpt.comparators.prepare import Parts, memory_of, prepare, save
from instructgpt.comparators.rounds import (
    Stats,
    check_start,
    device_of,
    forget_alarms,
    log_round,
    policy_step,
    reinforce_gradients,
    sample_groups,
    score,
    speed,
    summary,
    write_samples,
)
from instructgpt.comparators.settings import RLOOConfig
from instructgpt.maths.policy_gradient import leave_one_out
from instructgpt.rlhf.prepare import resolve
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import Rollout, micro_batches
from instructgpt.rlhf.round import Judged, describe, learning_rates
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import tune_malloc
from instructgpt.runtime.memory import announce_memory
from instructgpt.runtime.optim import set_lr
from instructgpt.runtime.profile import phase

__all__ = ["RLOOConfig", "train"]


def train(config: RLOOConfig) -> dict[str, Any]:
    """Train a policy, or go on where the run folder stopped, bit by bit on a CPU; returns the summary.

    Run folder, metrics and summary are PPO's without the value network's; `samples` counts replies.

    Raises:
        InstructGPTError: input that can't be used (its subclasses say which), or CheckError: the self-check
            failed.
    """
    tune_malloc()
    ppo = config.ppo
    inputs = resolve(ppo)
    with open_run(config.out, "rloo", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        parts = prepare(ppo, inputs, run)
        memory = memory_of(parts, ppo)
        announce_memory("rloo", memory, ppo.max_tokens)
        forget_alarms(run)
        for iteration in run.steps(run.start, config.iterations, config.save_every):
            finished = iteration + 1
            with phase("rollout"):
                episodes = sample_groups(
                    parts.policy, parts.tokenizer, parts.prompts, ppo, iteration, config.samples
                )
            with phase("scoring"):
                rollout = score(parts, episodes, ppo)
                rewards = shape_rewards(rollout, config.beta, config.missing_eos_penalty)
                # Summed over its tokens, a reply's reward is score - beta * KL.
                advantages = leave_one_out(rewards.per_token.sum(1), config.samples)
            if iteration == run.start:
                check_start(parts.policy, rollout, ppo, "rloo")
            with phase("update"):
                losses = update(parts, rollout, advantages, config, iteration)
            judged = Judged(rollout, rewards, advantages, advantages)
            parts.last = (
                describe(judged, config.beta, parts.first.get("length")) | losses | speed(run, episodes)
            )
            parts.last["samples"] = float(finished * config.batch)
            parts.first = parts.first or parts.last
            log_round(run, parts.alarms, finished, parts.last)
            if run.should_save(finished):
                write_samples(run, finished, parts.tokenizer, episodes, reward=rollout.scores, kl=rewards.kl)
                save(run, finished, parts, config.keep)
        done = summary(run, config.iterations, parts.prompts, parts.first, parts.last)
        done |= {"alarms": parts.alarms.counts, "memory_estimate_mib": memory.rounded()}
        return run.finish(done)


def update(parts: Parts, rollout: Rollout, advantages: Tensor, config: RLOOConfig, iteration: int) -> Stats:
    """One optimizer step: advantages (B,) in reward units, one a reply; the loss is a mean over replies."""
    ppo = config.ppo
    rate, _ = learning_rates(ppo, iteration)
    set_lr(parts.optimizer, rate)
    rows = range(len(advantages))
    minibatch = micro_batches(rollout.episodes, rows, config.max_tokens, device_of(parts.policy))
    every_token = advantages[:, None].expand(rollout.mask.shape)
    stats = reinforce_gradients(parts.policy, minibatch, every_token, len(rows), ppo)
    taken = policy_step(parts, stats, ppo, "rloo")
    return (stats if taken else {}) | {"skipped_steps": float(not taken), "lr": rate}
