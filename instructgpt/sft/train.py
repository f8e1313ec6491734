"""Verb `sft`: instruction tuning, prompt masked, with a mix of pretraining text ([P], App. C.1, C.3)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import read_texts
from instructgpt.data.shards import TokenShards, write_shards
from instructgpt.errors import CheckError, CheckpointError, ConfigError
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.model.lora_settings import lora_of
from instructgpt.model.shared import Bases, start_language
from instructgpt.runtime.checkpoint import Run, final_checkpoint, open_run
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
from instructgpt.scoring.likelihood import accumulate, all_counted, counted, mean_loss
from instructgpt.sft.examples import Stream, read_examples
from instructgpt.sft.selection import Measured, make_judge, rank
from instructgpt.sft.settings import SFTConfig
from instructgpt.text.chat import Rendered
from instructgpt.text.tokenizer import Tokenizer

__all__ = ["SFTConfig", "train"]

_OPTIMIZER = "optimizer."


def train(config: SFTConfig) -> dict[str, Any]:
    """Train, or go on where the run folder stopped; returns the summary.

    Metrics: `loss` and `validation_loss` in nats per counted token, `pretrain_loss` (of the mix) in nats per
    token, `lr`, `grad_norm`, `tokens_per_second`; at checkpoints also `eos_rate` and `reward`. Summary:
    `checkpoint` (the chosen one) and `chosen_by`, its `validation_loss`, `eos_rate` and `reward` as far as
    measured, `candidates` (the same of every checkpoint), `demonstrations`, `dropped`, `steps`,
    `memory_estimate_mib`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, demonstrations, model, disk.
        CheckError: the loss is no longer a finite number.
        Interrupted: Ctrl-C; all is saved.
    """
    tune_malloc()
    source, inputs = _inputs(config)
    device = pick_device(config.device)
    with open_run(config.out, "sft", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        tokenizer = Tokenizer.load(tokenizer_folder(source))
        model = _model(run, source, config, device)
        _check_vocabulary(model, tokenizer, source)
        dtype = settle(run.folder, config.dtype, model)
        run.computes(device, dtype)
        examples = read_examples(config, tokenizer, model.config.context)
        judge = make_judge(config, tokenizer, model.config.context, examples.held_out_prompts, device)
        mix = _mix(run, config, tokenizer)
        memory = estimate_memory([model], tokens=config.micro_tokens)
        announce_memory("sft", memory, config.micro_tokens)
        optimizer = adamw(model, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay)
        state, tensors = run.load_state()
        restore_optimizer(optimizer, model, tensors, _OPTIMIZER)
        candidates: dict[str, Measured] = state.get("candidates", {})
        stream = Stream(examples.train, config.batch, config.seed, config.epochs)
        total = stream.steps
        every = math.ceil(len(examples.train) / config.batch / config.checkpoints_per_epoch)
        for step in run.steps(run.start, total, every):
            done, clock = step + 1, time.monotonic()
            lr = config.lr * cosine(step, total, config.warmup)
            with phase("data"):
                batch, windows = stream.batch(step), _windows(mix, step, config)
            with phase("update"):
                measured = gradients(model, batch, windows, config, step, dtype)
                norm = update(model, optimizer, lr, config.clip, f"{run.folder}, step {done}")
            tokens = sum(len(example.ids) for example in [*batch, *windows])
            measured |= {"lr": lr, "grad_norm": norm}
            measured["tokens_per_second"] = round(tokens / (time.monotonic() - clock), 1)
            is_candidate = done % every == 0 or done == total
            if is_candidate or (config.eval_every and done % config.eval_every == 0):
                with phase("evaluate"):
                    found = _validation(model, examples.held_out, config, dtype)
                    found |= judge.measure(model) if is_candidate else {}
                if is_candidate:
                    candidates[str(done)] = found
                measured |= found
            run.log(done, **measured)
            if run.should_save(done):
                tensors = optimizer_tensors(optimizer, model, _OPTIMIZER)
                _save(run, done, model, tokenizer, tensors, candidates, config.keep)
        (chosen, *_), by = rank(_present(run, candidates))
        return run.finish(
            {
                "checkpoint": str(run.checkpoint(chosen).relative_to(run.folder)),
                "chosen_by": by,
                **candidates[str(chosen)],
                "candidates": candidates,
                "demonstrations": len(examples.train),
                "held_out": len(examples.held_out),
                "dropped": examples.dropped,
                "steps": total,
                "memory_estimate_mib": memory.rounded(),
            }
        )


def gradients(
    model: LanguageModel,
    batch: list[Rendered],
    windows: list[Rendered],
    config: SFTConfig,
    step: int,
    dtype: torch.dtype,
) -> Measured:
    """Add one step's gradient to the model's: (1 - f) x demonstrations + f x pretraining windows, each a mean
    over its tokens; f is `pretrain_fraction`, or 0 without windows. Returns both means."""
    if config.residual_dropout:
        # Dropout draws from the global generator; keyed by the step, a resumed run draws the same.
        torch.manual_seed(derive_seed(config.seed, "sft dropout", step))
    share = config.pretrain_fraction if windows else 0.0
    limits = (config.micro_tokens, dtype, config.residual_dropout)
    found = {"loss": accumulate(model, batch, 1 - share, *limits)}
    work(_flops(model, batch))
    if windows:
        with phase("ptx"):
            found["pretrain_loss"] = accumulate(model, windows, share, *limits)
            work(_flops(model, windows))
    return found


def _flops(model: LanguageModel, examples: list[Rendered]) -> float:
    return training_flops(model, sum(len(example.ids) for example in examples), counted(examples))


def write_checkpoint(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """A complete folder that transformers opens and whose generation ends with a reply's end."""
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.eos_id, *others] if others else tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_model(model, folder, special=special)
    tokenizer.save(folder)


def _save(
    run: Run,
    done: int,
    model: LanguageModel,
    tokenizer: Tokenizer,
    tensors: Mapping[str, Tensor],
    candidates: dict[str, Measured],
    keep: int,
) -> None:
    """Write checkpoint `done`; beside it the `keep` best candidates so far stay, or all for 0."""
    best = rank(_present(run, candidates, done))[0][:keep]
    state = {"candidates": candidates}
    latest = 1 if keep else None
    run.save(done, lambda f: write_checkpoint(model, tokenizer, f), tensors, state, latest, best)


def _present(run: Run, candidates: dict[str, Measured], writing: int = 0) -> dict[str, Measured]:
    """The candidates that are on disk, or are just being written: one of the others can't be chosen any more,
    even where the last checkpoint has no reward and the loss has to decide."""
    return {
        step: found
        for step, found in candidates.items()
        if int(step) == writing or run.checkpoint(int(step)).exists()
    }


def _validation(
    model: LanguageModel, held_out: list[Rendered], config: SFTConfig, dtype: torch.dtype
) -> Measured:
    loss = mean_loss(model, held_out, config.micro_tokens, dtype)
    return {} if loss is None else {"validation_loss": loss}


def _mix(run: Run, config: SFTConfig, tokenizer: Tokenizer) -> TokenShards | None:
    """The pretraining text as token ids on disk, written at the first start (whole or not at all)."""
    if not config.pretrain_windows:
        return None
    folder = run.folder / "pretrain_tokens"
    if run.latest is not None and folder.exists():  # before that, they may be of a mistaken first try
        return TokenShards.open(folder, tokenizer)
    return write_shards(read_texts(config.pretrain_data), tokenizer, folder)


def _windows(mix: TokenShards | None, step: int, config: SFTConfig) -> list[Rendered]:
    if mix is None:
        return []
    seed = derive_seed(config.seed, "sft mix")
    return all_counted(mix.batch(step, config.pretrain_windows, config.pretrain_length, seed))


def _inputs(config: SFTConfig) -> tuple[Path, dict[str, str | Path]]:
    """The model's folder and everything that the result depends on."""
    for name, what in (("model", "a language model's folder"), ("data", "a JSONL file of demonstrations")):
        if not getattr(config, name):
            raise ConfigError(f"no {name} was named", f"--{name}", f"give {what}")
    source = final_checkpoint(config.model)
    inputs: dict[str, str | Path] = {"model": source}
    for name in ("data", "validation", "selection_prompts"):
        value = getattr(config, name)
        inputs[name] = ",".join(map(str, expand(value))) if value else ""
    texts = (*JSONL_ENDINGS, *TEXT_ENDINGS)
    mix = config.pretrain_data
    inputs["pretrain_data"] = ",".join(map(str, expand(mix, texts))) if mix else ""
    inputs["reward"] = (
        final_checkpoint(config.reward) if config.reward and Path(config.reward).is_dir() else ""
    )
    return source, inputs


def _model(run: Run, source: Path, config: SFTConfig, device: torch.device) -> LanguageModel:
    """All of a model, or adapters over one; at a restart as the latest checkpoint has it."""
    lora = lora_of(config)
    if lora is None:
        return load_language_model(run.latest or source).to(device)
    seed = derive_seed(config.seed, "sft adapters")
    return start_language(Bases(device), run.latest or source, lora, seed)


def _check_vocabulary(model: LanguageModel, tokenizer: Tokenizer, source: Path) -> None:
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {model.config.vocab_size}",
            str(source),
            "model and tokenizer must come from one checkpoint: copy the whole folder again",
        )


def update(
    model: LanguageModel, optimizer: torch.optim.Optimizer, lr: float, max_norm: float, where: str
) -> float:
    """Take the step and clear the gradients; returns their norm before clipping.

    Raises:
        CheckError: it is not a finite number, and the step was not taken; `where` says where that was.
    """
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
