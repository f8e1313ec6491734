"""Verb `reward`: a reward model from rankings, all pairs of a prompt as one batch element ([P], Eq. 1)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from instructgpt.data.collate import pack_shared
from instructgpt.data.packing import plan_batches
from instructgpt.data.records import read_demonstrations
from instructgpt.errors import CheckError, CheckpointError, DataError
from instructgpt.maths.ranking import pairwise_accuracy, ranking_loss
from instructgpt.model.adapter import read_adapter, tokenizer_folder
from instructgpt.model.heads import ScalarModel, scalar_from_language
from instructgpt.model.hf import load_language_model, load_scalar_model, save_model
from instructgpt.model.lora_settings import lora_of
from instructgpt.model.shared import Bases, start_scalar
from instructgpt.reward_model.comparisons import (
    Comparison,
    Rankings,
    Stream,
    inputs_of,
    read_comparisons,
)
from instructgpt.reward_model.figure import write_reliability
from instructgpt.reward_model.folds import cross_validate
from instructgpt.reward_model.measure import agreement
from instructgpt.reward_model.members import train_members
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.reward_model.summary import held_out_summary
from instructgpt.reward_model.table import accuracy_table
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, tune_malloc
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.memory import announce_memory, estimate_memory
from instructgpt.runtime.optim import (
    adamw,
    clip_gradients,
    cosine,
    optimizer_tensors,
    restore_optimizer,
    set_lr,
)
from instructgpt.runtime.precision import settle
from instructgpt.runtime.profile import phase, work
from instructgpt.runtime.seeds import derive_seed
from instructgpt.scoring.batches import last_hidden, score_ids
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.chat import render_reply
from instructgpt.text.tokenizer import Tokenizer

__all__ = ["RewardConfig", "train"]

_OPTIMIZER = "optimizer."


def train(config: RewardConfig) -> dict[str, Any]:
    """The verb: one model, an ensemble (`members`) or cross-validation (`folds`); returns the summary.

    Raises:
        See `train_one`, `train_members` and `cross_validate`.
    """
    if config.folds:
        return cross_validate(config, train_one)
    if config.members > 1:
        return train_members(config, train_one)
    return train_one(config)


def train_one(config: RewardConfig) -> dict[str, Any]:
    """Train one model, or go on where the run folder stopped; returns the summary.

    Metrics: `loss` (nats per pair, mean over a prompt's pairs, then over prompts), `accuracy` (share of the
    step's pairs in the right order), `lr`, `grad_norm`, `tokens_per_second`, at times `validation_loss` and
    `validation_accuracy`. Summary: `checkpoint`; what `held_out_summary` measures;
    `demonstration_mean_before` and `demonstration_mean` around the shift; counts of what was used and
    dropped; `steps`; `table`; `memory_estimate_mib`. The folder also gets reliability.svg.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, rankings, model, disk.
        CheckError: the loss is no longer a finite number.
        Interrupted: Ctrl-C; all is saved.
    """
    tune_malloc()
    source, inputs = inputs_of(config)
    device = pick_device(config.device)
    with open_run(config.out, "reward", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        tokenizer = Tokenizer.load(tokenizer_folder(source))
        model = _model(run, source, tokenizer, config, device)
        dtype = settle(run.folder, config.dtype, model)
        run.computes(device, dtype)
        rankings = read_comparisons(config, tokenizer, model.config.context)
        demonstrations = _demonstrations(config, tokenizer, model.config.context)
        stream = Stream(rankings.train, config.batch, config.seed, config.epochs)
        memory = estimate_memory([model], tokens=config.micro_tokens)
        announce_memory("reward", memory, config.micro_tokens)
        optimizer = adamw(model, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay)
        restore_optimizer(optimizer, model, run.load_state()[1], _OPTIMIZER)

        def save(done: int) -> None:
            tensors = optimizer_tensors(optimizer, model, _OPTIMIZER)
            run.save(done, lambda folder: write_checkpoint(model, tokenizer, folder), tensors)

        for step in run.steps(run.start, stream.steps, config.save_every):
            done, clock = step + 1, time.monotonic()
            lr = config.lr * cosine(step, stream.steps, config.warmup)
            with phase("data"):
                batch = stream.batch(step)
                tokens = sum(comparison.tokens for comparison in batch)
            with phase("update"):
                measured = take_step(model, optimizer, batch, lr, config, dtype, f"{run.folder}, step {done}")
            speed = tokens / (time.monotonic() - clock)
            measured["tokens_per_second"] = round(speed, 1)
            if config.eval_every and done % config.eval_every == 0 and done < stream.steps:
                with phase("evaluate"):
                    found = validate(model, rankings.held_out)
                measured |= {f"validation_{name}": found[name] for name in ("loss", "accuracy") if found}
            run.log(done, **measured)
            if run.should_save(done) and done < stream.steps:
                save(done)
        before, after = normalise(model, demonstrations)
        if run.latest != run.checkpoint(stream.steps):  # there already after a kill behind this line
            save(stream.steps)
        summary = _summary(run, config, model, rankings, stream.steps, before, after)
        summary["memory_estimate_mib"] = memory.rounded()
        if summary["calibration"]:
            write_reliability(run.folder, summary["calibration"])
        return run.finish(summary)


def take_step(
    model: ScalarModel,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Comparison],
    lr: float,
    config: RewardConfig,
    dtype: torch.dtype,
    where: str,
) -> dict[str, float]:
    """One optimizer step on these prompts; returns `loss`, `accuracy`, `lr`, `grad_norm` (before clipping).

    Raises:
        CheckError: the gradient is not finite; nothing was changed. `where` says which step it was.
    """
    loss, accuracy = accumulate(model, batch, config.micro_tokens, dtype)
    norm = _update(model, optimizer, lr, config.clip, where)
    tokens = sum(comparison.computed_tokens for comparison in batch)
    work(training_flops(model, tokens, sum(len(comparison.ranks) for comparison in batch)))
    return {"loss": loss, "accuracy": accuracy, "lr": lr, "grad_norm": norm}


def accumulate(
    model: ScalarModel, batch: Sequence[Comparison], micro_tokens: int, dtype: torch.dtype
) -> tuple[float, float]:
    """Add the gradient of Eq. 1 over these prompts to the model's; returns (loss, accuracy) of the step.

    Every reply is forwarded once, whatever number of pairs it is in (field fault 27), and what the replies
    share, their prompt, is forwarded once for all of them. The denominator is the number of prompts in the
    whole batch, so the cut into micro-batches changes nothing but rounding.
    """
    loss_sum = right = 0.0
    pairs = 0
    for plan in plan_batches([comparison.computed_tokens for comparison in batch], micro_tokens):
        part = [batch[i] for i in plan]
        scores = score_sequences(model, [comparison.sequences for comparison in part], dtype)
        ranks = torch.tensor([rank for comparison in part for rank in comparison.ranks], device=scores.device)
        counts = [len(comparison.ranks) for comparison in part]
        loss, _ = ranking_loss(scores, ranks, counts, prompts=len(batch))
        loss.backward()
        share, number = pairwise_accuracy(scores.detach(), ranks, counts)
        loss_sum, right, pairs = loss_sum + loss.item(), right + share * number, pairs + number
    return loss_sum, right / max(1, pairs)


def score_sequences(
    model: ScalarModel, groups: Sequence[Sequence[Sequence[int]]], dtype: torch.dtype
) -> Tensor:
    """Scores (n,) float32 at each sequence's last token, group after group, with gradients.

    What the sequences of a group share is computed once; the head meets the last tokens only.
    """
    device = model.reward_bias.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        hidden = last_hidden(model, pack_shared(groups).to(device))  # (n, D)
    return model.score(hidden)


def validate(model: ScalarModel, held_out: Sequence[Comparison]) -> dict[str, float]:
    """`loss` and `accuracy` as in training, `pairs`, and `reward_std` over all replies; empty without any."""
    ranks = [rank for comparison in held_out for rank in comparison.ranks]
    return agreement(score_held_out(model, held_out), ranks, [len(c.ranks) for c in held_out])


def score_held_out(model: ScalarModel, held_out: Sequence[Comparison]) -> Tensor:
    """Scores (n,) of all their replies, comparison after comparison."""
    return score_ids(model, [ids for comparison in held_out for ids in comparison.sequences])


def normalise(
    model: ScalarModel, demonstrations: Sequence[Sequence[int]]
) -> tuple[float | None, float | None]:
    """Shift the model so that the demonstrations' mean reward is 0 ([P], section 3.5).

    Returns their mean before and after, in reward units; without demonstrations nothing is shifted and both
    are None.
    """
    model.reward_bias.zero_()
    if not demonstrations:
        return None, None
    scores = score_ids(model, demonstrations)
    before = scores.double().mean()
    model.reward_bias.fill_(before)
    return before.item(), (scores - model.reward_bias.cpu()).double().mean().item()


def write_checkpoint(model: ScalarModel, tokenizer: Tokenizer, folder: Path) -> None:
    """A complete folder: a one-label classifier for transformers, with our shift and self-test beside it."""
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        # transformers finds the last token of a batch's row by its padding and refuses to go without.
        "pad_token_id": tokenizer.eos_id if tokenizer.pad_id is None else tokenizer.pad_id,
    }
    save_model(model, folder, special=special)
    tokenizer.save(folder)
    write_selftest(folder, model, tokenizer)


def _model(
    run: Run, source: Path, tokenizer: Tokenizer, config: RewardConfig, device: torch.device
) -> ScalarModel:
    """All of a model, or adapters and a head over one; at a restart as the latest checkpoint has it."""
    lora, seed = lora_of(config), derive_seed(config.seed, "reward head")
    if lora is not None:
        bases = Bases(device)
        if run.latest is not None:
            return cast(ScalarModel, bases.attach(read_adapter(run.latest), lora.base))
        model = start_scalar(bases, source, lora, seed)
    elif run.latest is not None:
        return load_scalar_model(run.latest).to(device)
    else:
        model = scalar_from_language(load_language_model(source), seed).to(device)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size}",
            str(source),
            "model and tokenizer must come from one checkpoint: copy the whole folder again",
        )
    return model


def _demonstrations(config: RewardConfig, tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """Demonstrations with their replies as ids; those that do not fit the context are left out."""
    if not config.demonstrations:
        return []
    records = read_demonstrations(config.demonstrations)[: config.demonstrations_limit or None]
    encoded = [render_reply(tokenizer, record.prompt.messages, record.response).ids for record in records]
    fitting = [ids for ids in encoded if len(ids) <= context]
    if not fitting:
        raise DataError(
            f"none of {len(records)} demonstrations fits into the model's context of {context} tokens",
            config.demonstrations,
            "give shorter demonstrations, or leave --demonstrations out",
        )
    return fitting


def _summary(
    run: Run,
    config: RewardConfig,
    model: ScalarModel,
    rankings: Rankings,
    steps: int,
    before: float | None,
    after: float | None,
) -> dict[str, Any]:
    summary = {
        "checkpoint": str(run.checkpoint(steps).relative_to(run.folder)),
        **held_out_summary(score_held_out(model, rankings.held_out), rankings, config),
        "demonstration_mean_before": before,
        "demonstration_mean": after,
        "rankings": len(rankings.train),
        "held_out": len(rankings.held_out),
        "training_pairs": sum(comparison.pairs for comparison in rankings.train),
        "dropped_replies": rankings.dropped_replies,
        "dropped_rankings": rankings.dropped_rankings,
        "steps": steps,
    }
    return summary | {"table": accuracy_table(summary)}


def _update(
    model: ScalarModel, optimizer: torch.optim.Optimizer, lr: float, max_norm: float, where: str
) -> float:
    """Take the step and clear the gradients; returns their norm before clipping."""
    norm = clip_gradients(model.parameters(), max_norm)
    if not math.isfinite(norm):
        raise CheckError(
            f"the gradient's norm is {norm}, so the step was not taken; the last checkpoint is good",
            where,
            "start again in another --out with a smaller --lr or a --warmup",
        )
    set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad()
    return norm
