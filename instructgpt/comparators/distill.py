"""Verb `distill`: the best of n replies by the reward, as demonstrations for SFT.

Each round draws n replies to each of its prompts, keeps the one of highest reward and takes steps of SFT's
loss on the winners. With the replies drawn from the SFT model this distils best-of-n into one policy; drawn
from the policy itself it is RAFT (arXiv:2304.06767).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from instructgpt.comparators.prepare import Parts, memory_of, prepare, save
from instructgpt.comparators.rounds import (
    Stats,
    forget_alarms,
    log_round,
    means,
    minibatch_rows,
    policy_step,
    sample_groups,
    speed,
    summary,
    write_samples,
)
from instructgpt.comparators.settings import DistillConfig
from instructgpt.rlhf.prepare import resolve
from instructgpt.rlhf.rollout import Episodes, part_scores
from instructgpt.rlhf.round import learning_rates
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.device import pick_dtype, tune_malloc
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.memory import announce_memory
from instructgpt.runtime.optim import set_lr
from instructgpt.runtime.profile import phase, work
from instructgpt.scoring.likelihood import accumulate, counted
from instructgpt.text.chat import Rendered

__all__ = ["DistillConfig", "train"]


def train(config: DistillConfig) -> dict[str, Any]:
    """Train a policy, or go on where the run folder stopped, bit by bit on a CPU; returns the summary.

    Metrics: `reward`, `length` and `eos_rate` of all replies drawn, `reward_best` of the winners, `loss`
    (nats per token of the winners), `samples` (replies so far). Without `sampler` policy the first three are
    the SFT model's throughout.

    Raises:
        InstructGPTError: input that can't be used; its subclasses say which.
    """
    tune_malloc()
    ppo = config.ppo
    inputs = resolve(ppo)
    with open_run(config.out, "distill", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        parts = prepare(ppo, inputs, run)
        memory = memory_of(parts, ppo)
        announce_memory("distill", memory, ppo.max_tokens)
        sampler = parts.policy if config.sampler == "policy" else parts.reference
        forget_alarms(run)
        for iteration in run.steps(run.start, config.iterations, config.save_every):
            finished = iteration + 1
            with phase("rollout"):
                episodes = sample_groups(
                    sampler, parts.tokenizer, parts.prompts, ppo, iteration, config.samples
                )
            with phase("scoring"):
                found = part_scores(parts.reward, episodes, parts.tokenizer).total
            scores = found
            if config.missing_eos_penalty is not None:
                scores = torch.where(episodes.stopped, found, config.missing_eos_penalty)
            best = winners(scores, config.samples)
            with phase("update"):
                losses = update(parts, examples_of(episodes, best), config, iteration)
            parts.last = {
                "reward": found.mean().item(),
                "reward_best": found[best].mean().item(),
                "length": episodes.response_length.float().mean().item(),
                "eos_rate": episodes.stopped.float().mean().item(),
                "samples": float(finished * config.batch),
                **losses,
                **speed(run, episodes),
            }
            parts.first = parts.first or parts.last
            log_round(run, parts.alarms, finished, parts.last)
            if run.should_save(finished):
                won = torch.zeros(len(scores), dtype=torch.bool)
                won[best] = True
                write_samples(run, finished, parts.tokenizer, episodes, reward=found, chosen=won)
                save(run, finished, parts, config.keep)
        done = summary(run, config.iterations, parts.prompts, parts.first, parts.last)
        done |= {"alarms": parts.alarms.counts, "memory_estimate_mib": memory.rounded()}
        return run.finish(done)


def winners(scores: Tensor, group: int) -> Tensor:
    """Row number of the highest score in each group of `group` rows, the first of equals; (B / group,)."""
    each = scores.view(-1, group)
    return each.argmax(1) + group * torch.arange(len(each))


def examples_of(episodes: Episodes, rows: Tensor) -> list[Rendered]:
    """These replies as SFT reads demonstrations: prompt and reply, of which the reply and its end count."""
    chosen = rows.tolist()
    return [
        Rendered(ids, [place >= len(episodes.prompt_ids[row]) for place in range(len(ids))])
        for row, ids in zip(chosen, episodes.sequences(chosen), strict=True)
    ]


def update(parts: Parts, examples: list[Rendered], config: DistillConfig, iteration: int) -> Stats:
    """`epochs` x `minibatches` optimizer steps of SFT's loss, a mean over the winners' tokens."""
    ppo, dtype = config.ppo, pick_dtype(config.dtype)
    rate, _ = learning_rates(ppo, iteration)
    set_lr(parts.optimizer, rate)
    history: list[Stats] = []
    skipped = 0
    for rows in minibatch_rows(len(examples), ppo, iteration):
        chosen = [examples[row] for row in rows]
        loss = accumulate(parts.policy, chosen, 1.0, config.max_tokens, dtype)
        tokens = sum(len(example.ids) for example in chosen)
        work(training_flops(parts.policy, tokens, counted(chosen)))
        stats = {"loss": loss}
        if policy_step(parts, stats, ppo, "distill"):
            history.append(stats)
        else:
            skipped += 1
    return means(history) | {"skipped_steps": float(skipped), "lr": rate}
