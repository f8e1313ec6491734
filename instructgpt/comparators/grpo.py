"""Verb `grpo`: group-relative policy optimisation (arXiv:2402.03300, section 4.1).

Rewards are normalised within the replies to one prompt, every token of a reply has its advantage, PPO's
clipped ratio holds the steps of a round together, and the KL is a penalty in the loss; no value network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from instructgpt.comparators.prepare import Parts, memory_of, prepare, save
from instructgpt.comparators.rounds import (
    Stats,
    add,
    at,
    check_start,
    device_of,
    forget_alarms,
    log_round,
    means,
    minibatch_rows,
    policy_step,
    sample_groups,
    score,
    speed,
    summary,
    write_samples,
)
from instructgpt.comparators.settings import GRPOConfig
from instructgpt.maths.policy_gradient import group_normalised, grpo_loss, reply_weights
from instructgpt.model.heads import LanguageModel
from instructgpt.rlhf.prepare import resolve
from instructgpt.rlhf.reward import shape_rewards
from instructgpt.rlhf.rollout import Rollout, micro_batches
from instructgpt.rlhf.round import Judged, describe, learning_rates
from instructgpt.rlhf.update import policy_logprobs
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import tune_malloc
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.memory import announce_memory
from instructgpt.runtime.optim import set_lr
from instructgpt.runtime.profile import phase, work

__all__ = ["GRPOConfig", "train"]


def train(config: GRPOConfig) -> dict[str, Any]:
    """Train a policy, or go on where the run folder stopped, bit by bit on a CPU; returns the summary.

    Run folder, metrics and summary are PPO's without the value network's; `kl_loss` is the penalty k3 in nats
    per token as averaged, `samples` counts replies.

    Raises:
        InstructGPTError: input that can't be used (its subclasses say which), or CheckError: the self-check
            failed.
    """
    tune_malloc()
    ppo = config.ppo
    inputs = resolve(ppo)
    with open_run(config.out, "grpo", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        parts = prepare(ppo, inputs, run)
        memory = memory_of(parts, ppo)
        announce_memory("grpo", memory, ppo.max_tokens)
        forget_alarms(run)
        for iteration in run.steps(run.start, config.iterations, config.save_every):
            finished = iteration + 1
            with phase("rollout"):
                episodes = sample_groups(
                    parts.policy, parts.tokenizer, parts.prompts, ppo, iteration, config.samples
                )
            with phase("scoring"):
                rollout = score(parts, episodes, ppo)
                # The KL is in the loss, not in the reward.
                rewards = shape_rewards(rollout, 0.0, config.missing_eos_penalty)
                advantages = group_normalised(rewards.scores, config.samples, config.scale)
            if iteration == run.start:
                check_start(parts.policy, rollout, ppo, "grpo")
            with phase("update"):
                losses = update(parts, rollout, advantages, config, iteration)
            judged = Judged(rollout, rewards, advantages, advantages)
            parts.last = describe(judged, 0.0, parts.first.get("length")) | losses | speed(run, episodes)
            parts.last["samples"] = float(finished * config.batch)
            parts.first = parts.first or parts.last
            log_round(run, parts.alarms, finished, parts.last)
            if run.should_save(finished):
                write_samples(run, finished, parts.tokenizer, episodes, reward=rollout.scores, kl=rewards.kl)
                save(run, finished, parts, config.keep)
        done = summary(run, config.iterations, parts.prompts, parts.first, parts.last)
        done |= {"alarms": parts.alarms.counts, "memory_estimate_mib": memory.rounded()}
        return run.finish(done)


def update(parts: Parts, rollout: Rollout, advantages: Tensor, config: GRPOConfig, iteration: int) -> Stats:
    """`epochs` x `minibatches` optimizer steps with advantages (B,), one a reply; returns the metrics."""
    ppo = config.ppo
    rate, _ = learning_rates(ppo, iteration)
    set_lr(parts.optimizer, rate)
    history: list[Stats] = []
    skipped = 0
    for rows in minibatch_rows(len(advantages), ppo, iteration):
        stats = gradients(parts.policy, rollout, advantages, rows, config)
        if policy_step(parts, stats, ppo, "grpo"):
            history.append(stats)
        else:
            skipped += 1
    return means(history) | {"skipped_steps": float(skipped), "lr": rate}


def gradients(
    policy: LanguageModel, rollout: Rollout, advantages: Tensor, rows: Sequence[int], config: GRPOConfig
) -> Stats:
    """Add the gradient of GRPO's loss over these replies to the policy's; returns its statistics."""
    ppo, episodes = config.ppo, rollout.episodes
    micros = micro_batches(episodes, rows, config.max_tokens, device_of(policy))
    count = sum(len(micro.targets) for micro in micros)
    weights = torch.ones(len(episodes.prompts))
    if config.average == "reply":
        weights[rows] = reply_weights(episodes.response_length[rows])
    grid = rollout.mask.shape
    totals: Stats = {}
    for micro in micros:
        logprobs, entropy = policy_logprobs(policy, micro, ppo)
        loss, stats = grpo_loss(
            logprobs,
            at(rollout.old_logprobs, micro),
            at(rollout.reference_logprobs, micro),
            at(advantages[:, None].expand(grid), micro),
            at(weights[:, None].expand(grid), micro),
            torch.ones_like(micro.targets, dtype=torch.bool),  # packed: only reply tokens are here
            config.clip,
            config.beta,
            count,
        )
        loss.backward()
        work(training_flops(policy, *micro.size))
        add(totals, {"policy_loss": loss.detach(), "entropy": entropy.sum() / count, **stats})
    return totals
