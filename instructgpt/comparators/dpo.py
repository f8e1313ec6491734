"""Verb `dpo`: direct preference optimisation on K-way rankings (arXiv:2305.18290).

The reward model's loss (Eq. 1 of arXiv:2203.02155) with the implicit reward beta * log(pi / pi_ref) in the
place of a reward model: no reward model is trained and nothing is sampled. A prompt is one batch element, and
each of its K replies is read once for all its pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.comparators.prepare import write_policy
from instructgpt.comparators.rounds import Stats, device_of, skipped_now, take_step
from instructgpt.comparators.settings import DPOConfig
from instructgpt.data.collate import pack_ids
from instructgpt.data.packing import plan_batches
from instructgpt.data.records import Ranking
from instructgpt.errors import CheckError
from instructgpt.maths.logprobs import token_logprobs
from instructgpt.maths.preference import dpo_loss, implicit_rewards
from instructgpt.maths.ranking import pairwise_accuracy, untied_pairs
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import LanguageModel
from instructgpt.reward_model.comparisons import Comparison, inputs_of, read_comparisons
from instructgpt.rlhf.networks import Networks
from instructgpt.rlhf.prepare import prompt_indices
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, pick_dtype, tune_malloc
from instructgpt.runtime.flops import forward_flops, training_flops
from instructgpt.runtime.memory import announce_memory, estimate_memory
from instructgpt.runtime.optim import (
    adamw,
    linear_warmup,
    optimizer_tensors,
    restore_optimizer,
    set_lr,
)
from instructgpt.runtime.profile import phase, throughput, work
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer

__all__ = ["DPOConfig", "train"]

_OPTIMIZER = "optimizer."
START_TOLERANCE, HALF_TOLERANCE = 1e-4, 0.05
"""Largest |loss - log 2| before the first update, in nats per pair: in float32, and in bfloat16."""


@dataclass(frozen=True)
class Preference:
    """One prompt's ranked replies as ids, and how many of the ids are the prompt's."""

    comparison: Comparison
    prompt_length: int


def train(config: DPOConfig) -> dict[str, Any]:
    """Train a policy, or go on where the run folder stopped, bit by bit on a CPU; returns the summary.

    Metrics: `loss` (nats per pair, mean over a prompt's pairs, then over prompts; log 2 at the start),
    `accuracy` (share of pairs in the right order by implicit reward), `chosen_reward` and `rejected_reward`
    (implicit, mean over pairs), `margin` (their difference), `samples` (replies read so far), `lr`, at times
    `validation_loss` and `validation_accuracy`. Summary: `checkpoint`, the latest of these, `rankings`,
    `held_out`, `dropped_rankings`, `steps`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, rankings, model, disk.
        CheckError: the loss of the untrained policy is not log 2, or gradients are not finite.
    """
    tune_malloc()
    source, inputs = inputs_of(config.rankings)
    with open_run(config.out, "dpo", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        tokenizer = Tokenizer.load(tokenizer_folder(source))
        device, dtype = pick_device(config.device), pick_dtype(config.dtype)
        run.computes(device, dtype)
        networks = Networks(config.ppo, source, run.latest, device)
        reference, policy = networks.reference(), networks.policy()
        memory = estimate_memory([policy], [reference], tokens=config.micro_tokens)
        announce_memory("dpo", memory, config.micro_tokens)
        rankings = read_comparisons(config.rankings, tokenizer, policy.config.context)
        preferences = preferences_of(rankings.train, rankings.train_texts, tokenizer)
        held_out = preferences_of(rankings.held_out, rankings.held_out_texts, tokenizer)
        optimizer = adamw(policy, config.lr, (config.beta1, config.beta2), weight_decay=config.weight_decay)
        state, tensors = run.load_state()
        restore_optimizer(optimizer, policy, tensors, _OPTIMIZER)
        skipped, samples = int(state.get("skipped_in_a_row", 0)), int(state.get("samples", 0))
        last: Stats = dict(state.get("last", {}))
        steps = max(1, math.ceil(config.epochs * len(preferences) / config.batch))
        for step in run.steps(run.start, steps, config.save_every):
            done = step + 1
            with phase("data"):
                places = prompt_indices(len(preferences), config.batch, step, config.seed)
                batch = [preferences[place] for place in places]
            samples += sum(len(one.comparison.ranks) for one in batch)
            rate = config.lr * linear_warmup(step, config.warmup)
            set_lr(optimizer, rate)
            with phase("update"):
                last = accumulate(policy, reference, batch, config, dtype)
                if step == 0:
                    _check_start(last["loss"], dtype)
                taken = take_step(optimizer, "grad_norm", last, config.grad_clip)
            skipped = skipped_now(skipped, taken, config.max_skipped, "dpo")
            last |= {"samples": float(samples), "skipped_steps": float(not taken), "lr": rate}
            last |= throughput(run.timing(), _size(batch)[0])
            if held_out and (done == steps or (config.eval_every and done % config.eval_every == 0)):
                with phase("evaluate"):
                    found = measure(policy, reference, held_out, config, dtype)
                last |= {f"validation_{name}": found[name] for name in ("loss", "accuracy")}
            run.log(done, **last)
            if run.should_save(done):
                _save(run, done, policy, tokenizer, optimizer, config, skipped, samples, last)
        shown = ("loss", "accuracy", "margin", "validation_loss", "validation_accuracy", "samples")
        return run.finish(
            {
                "checkpoint": str(run.checkpoint(steps).relative_to(run.folder)),
                **{name: last[name] for name in shown if name in last},
                "rankings": len(preferences),
                "held_out": len(held_out),
                "dropped_rankings": rankings.dropped_rankings,
                "steps": steps,
                "memory_estimate_mib": memory.rounded(),
            }
        )


def preferences_of(
    comparisons: Sequence[Comparison], texts: Sequence[Ranking], tokenizer: Tokenizer
) -> list[Preference]:
    """The reward model's comparisons with the length of each prompt."""
    return [
        Preference(comparison, len(render_prompt(tokenizer, text.prompt.messages)))
        for comparison, text in zip(comparisons, texts, strict=True)
    ]


def accumulate(
    policy: LanguageModel,
    reference: LanguageModel,
    batch: Sequence[Preference],
    config: DPOConfig,
    dtype: torch.dtype,
) -> Stats:
    """Add the gradient of DPO's loss over these prompts to the policy's; returns the step's metrics.

    The denominator is the number of prompts in the whole batch, so the cut into micro-batches changes
    nothing but rounding.
    """
    totals: Stats = {}
    for plan in plan_batches([one.comparison.tokens for one in batch], config.micro_tokens):
        part = [batch[i] for i in plan]
        with torch.no_grad():
            theirs = reply_logprobs(reference, part, dtype)
        ours = reply_logprobs(policy, part, dtype)
        ranks, counts = _ranks(part, ours.device)
        loss, _ = dpo_loss(ours, theirs, ranks, counts, config.beta, prompts=len(batch))
        loss.backward()
        tokens, replied = _size(part)
        work(training_flops(policy, tokens, replied) + forward_flops(reference, tokens, replied))
        _add(totals, loss, implicit_rewards(ours.detach(), theirs, config.beta), ranks, counts)
    return _finish(totals)


@torch.no_grad()
def measure(
    policy: LanguageModel,
    reference: LanguageModel,
    batch: Sequence[Preference],
    config: DPOConfig,
    dtype: torch.dtype,
) -> Stats:
    """The metrics of `accumulate` without a gradient."""
    totals: Stats = {}
    for plan in plan_batches([one.comparison.tokens for one in batch], config.micro_tokens):
        part = [batch[i] for i in plan]
        ours, theirs = (reply_logprobs(model, part, dtype) for model in (policy, reference))
        ranks, counts = _ranks(part, ours.device)
        loss, _ = dpo_loss(ours, theirs, ranks, counts, config.beta, prompts=len(batch))
        _add(totals, loss, implicit_rewards(ours, theirs, config.beta), ranks, counts)
    return _finish(totals)


def reply_logprobs(model: LanguageModel, batch: Sequence[Preference], dtype: torch.dtype) -> Tensor:
    """log pi(y|x) in nats of each reply, its end included, prompt after prompt: (n,) float32 at least."""
    device = device_of(model)
    sequences = [ids for one in batch for ids in one.comparison.sequences]
    prompts = torch.tensor([one.prompt_length for one in batch for _ in one.comparison.ranks])
    ids, positions, lengths = pack_ids(sequences)
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))  # (N,)
    replied = (positions >= prompts[row]).nonzero()[:, 0]  # (t,): index into N of each reply token
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        hidden = model(ids.to(device), positions.to(device), lengths)[(replied - 1).to(device)]
        each = token_logprobs(hidden, model.unembedding, ids[replied].to(device))
    return each.new_zeros(len(lengths)).index_add(0, row[replied].to(device), each)


def _size(batch: Sequence[Preference]) -> tuple[int, int]:
    """(tokens of prompts and replies, of replies alone)."""
    tokens = sum(one.comparison.tokens for one in batch)
    return tokens, tokens - sum(one.prompt_length * len(one.comparison.ranks) for one in batch)


def _ranks(batch: Sequence[Preference], device: torch.device) -> tuple[Tensor, list[int]]:
    """Ranks (n,) of all replies, and how many each prompt has."""
    ranks = [rank for one in batch for rank in one.comparison.ranks]
    return torch.tensor(ranks, device=device), [len(one.comparison.ranks) for one in batch]


def _add(totals: Stats, loss: Tensor, rewards: Tensor, ranks: Tensor, counts: Sequence[int]) -> None:
    """Add a micro-batch: its part of the loss, and sums over its pairs."""
    better, worse, _ = untied_pairs(ranks, counts)
    share, pairs = pairwise_accuracy(rewards, ranks, counts)
    found = {
        "loss": loss.item(),
        "accuracy": share * pairs,
        "chosen_reward": rewards[better].sum().item(),
        "rejected_reward": rewards[worse].sum().item(),
        "pairs": float(pairs),
    }
    for name, value in found.items():
        totals[name] = totals.get(name, 0.0) + value


def _finish(totals: Stats) -> Stats:
    """Sums over pairs as means; the loss is a mean over prompts already."""
    names = ("accuracy", "chosen_reward", "rejected_reward")
    means = {name: totals[name] / max(1.0, totals["pairs"]) for name in names}
    margin = means["chosen_reward"] - means["rejected_reward"]
    return {"loss": totals["loss"], **means, "margin": margin}


def _check_start(loss: float, dtype: torch.dtype) -> None:
    """Before the first update the policy is the reference, every implicit reward 0 and the loss log 2.

    Raises:
        CheckError: it is not.
    """
    tolerance = START_TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    if not abs(loss - math.log(2)) <= tolerance:
        raise CheckError(
            f"the loss of the untrained policy is {loss:.6g} and not log 2: it differs from its reference",
            "dpo",
            "use --dtype float32; if it stays, the same weights give other log-probs from pass to pass",
        )


def _save(
    run: Run,
    done: int,
    policy: LanguageModel,
    tokenizer: Tokenizer,
    optimizer: torch.optim.Optimizer,
    config: DPOConfig,
    skipped: int,
    samples: int,
    last: Stats,
) -> None:
    def write(folder: Path) -> None:
        write_policy(folder, policy, tokenizer)

    state = {"skipped_in_a_row": skipped, "samples": samples, "last": last}
    run.save(done, write, optimizer_tensors(optimizer, policy, _OPTIMIZER), state, keep=config.keep or None)
