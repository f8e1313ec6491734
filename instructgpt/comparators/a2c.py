"""Verb `a2c`: advantage actor-critic (arXiv:1602.01783), PPO's one-step form (arXiv:2205.09123).

PPO's round as it is (rollout, reward, GAE, value network), then one optimizer step on all of it with the
plain policy gradient: its first step is PPO's, whose ratio is 1 there and clips nothing.
"""

from __future__ import annotations

from typing import Any

from instructgpt.comparators.rounds import (
    Stats,
    device_of,
    forget_alarms,
    log_round,
    reinforce_gradients,
    sample_groups,
    skipped_now,
    speed,
    summary,
    take_step,
    write_samples,
)
from instructgpt.comparators.settings import A2CConfig
from instructgpt.maths.ppo import explained_variance
from instructgpt.rlhf.alarms import Alarms
from instructgpt.rlhf.prepare import memory_of, prepare, resolve, save
from instructgpt.rlhf.rollout import micro_batches
from instructgpt.rlhf.round import Judged, check, describe, judge, learning_rates
from instructgpt.rlhf.update import Learner, value_gradients
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import tune_malloc
from instructgpt.runtime.memory import announce_memory
from instructgpt.runtime.optim import set_lr
from instructgpt.runtime.profile import phase

__all__ = ["A2CConfig", "train"]


def train(config: A2CConfig) -> dict[str, Any]:
    """Train a policy, or go on where the run folder stopped, bit by bit on a CPU; returns the summary.

    Run folder, metrics and summary are PPO's without ratios; `samples` counts replies.

    Raises:
        InstructGPTError: input that can't be used (its subclasses say which), or CheckError: a self-check
            failed.
    """
    tune_malloc()
    ppo = config.ppo
    inputs = resolve(ppo)
    with open_run(config.out, "a2c", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        parts = prepare(ppo, inputs, run)
        memory = memory_of(parts, ppo)
        announce_memory("a2c", memory, ppo.max_tokens)
        first, last, alarms = parts.first, parts.last, Alarms(ppo, parts.alarms)
        forget_alarms(run)
        for iteration in run.steps(run.start, config.iterations, config.save_every):
            finished = iteration + 1
            with phase("rollout"):
                episodes = sample_groups(parts.learner.policy, parts.tokenizer, parts.prompts, ppo, iteration)
            with phase("scoring"):
                judged = judge(parts, episodes, ppo, config.beta)
            if iteration == run.start:
                check(parts, judged, ppo, fresh=iteration == 0)
            with phase("update"):
                losses = update(parts.learner, judged, config, iteration)
            last = describe(judged, config.beta, first.get("length")) | losses | speed(run, episodes)
            last["samples"] = float(finished * config.batch)
            first = first or last
            log_round(run, alarms, finished, last)
            if run.should_save(finished):
                scores, kl = judged.rollout.scores, judged.rewards.kl
                write_samples(run, finished, parts.tokenizer, episodes, reward=scores, kl=kl)
                save(run, finished, parts, ppo, {"first": first, "last": last, "alarms": alarms.state()})
        done = summary(run, config.iterations, parts.prompts, first, last)
        done |= {"value_init": parts.value_init, "alarms": alarms.counts}
        return run.finish(done | {"memory_estimate_mib": memory.rounded()})


def update(learner: Learner, judged: Judged, config: A2CConfig, iteration: int) -> Stats:
    """One optimizer step of the policy and one of the value network; in the first `value_warmup` rounds the
    policy rests. Losses are means over the round's tokens."""
    ppo, rollout = config.ppo, judged.rollout
    policy_rate, value_rate = learning_rates(ppo, iteration)
    set_lr(learner.policy_optimizer, policy_rate)
    set_lr(learner.value_optimizer, value_rate)
    rows = range(len(rollout.scores))
    minibatch = micro_batches(rollout.episodes, rows, config.max_tokens, device_of(learner.policy))
    count = int(rollout.mask.sum())
    metrics: Stats = {}
    taken = True
    if iteration >= config.value_warmup:
        stats = reinforce_gradients(learner.policy, minibatch, judged.advantages, count, ppo)
        taken = take_step(learner.policy_optimizer, "policy_grad_norm", stats, config.grad_clip)
        metrics |= stats if taken else {}
    stats = value_gradients(learner.value, minibatch, rollout, judged.returns, ppo)
    del stats["value_clip_fraction"]
    value_taken = take_step(learner.value_optimizer, "value_grad_norm", stats, config.grad_clip)
    metrics |= stats if value_taken else {}
    taken = taken and value_taken
    learner.skipped_in_a_row = skipped_now(learner.skipped_in_a_row, taken, config.max_skipped, "a2c")
    explained = explained_variance(rollout.values, judged.returns, rollout.mask).item()
    return metrics | {
        "explained_variance": explained,
        "skipped_steps": float(not taken),
        "lr": policy_rate,
    }
