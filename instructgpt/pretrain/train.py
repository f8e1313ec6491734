"""Verb `pretrain`: a language model from scratch, by next-token prediction on plain text."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from instructgpt.data.jsonl import JSONL_ENDINGS, TEXT_ENDINGS, expand
from instructgpt.data.records import read_texts
from instructgpt.data.shards import TokenShards, write_shards
from instructgpt.errors import CheckError, ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.runtime.checkpoint import Run, open_run
from instructgpt.runtime.device import pick_device, tune_malloc
from instructgpt.runtime.flops import training_flops
from instructgpt.runtime.metrics import read_metrics
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
from instructgpt.text.chat import Rendered
from instructgpt.text.tokenizer import Tokenizer

_OPTIMIZER = "optimizer."


@dataclass(frozen=True)
class PretrainConfig:
    """Train a language model from scratch on text."""

    data: str = ""
    """Texts: .jsonl or .txt files (or .gz), a glob, or several with commas."""
    validation: str = ""
    """Held-out texts, likewise; empty = no validation loss."""
    tokenizer: str = ""
    """Folder of a tokenizer (`instructgpt tokenizer` makes one)."""
    out: str = ""
    """Run folder to write, or to resume."""
    family: Literal["llama", "gpt2"] = "llama"
    """Architecture: rotary positions, RMSNorm and SwiGLU, or learned positions, LayerNorm and GELU."""
    width: int = 128
    """Size of a hidden state."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int = 0
    """Key/value heads (llama only); 0 = as many as heads."""
    context: int = 256
    """Longest sequence that the model can read, in tokens."""
    tied: bool = True
    """Whether the unembedding is the embedding."""
    steps: int = 2000
    """Optimizer steps."""
    batch: int = 8
    """Windows of text in a step."""
    length: int = 0
    """Tokens in a window; 0 = the context."""
    separate: bool = True
    """Documents that meet in a window do not see one another; False is 3 to 15 % faster for tiny models."""
    lr: float = 3e-3
    """Peak learning rate; a cosine takes it down to a tenth."""
    warmup: int = 50
    """Steps of linear warm-up."""
    beta2: float = 0.95
    """Adam's decay of squared gradients; the first is 0.9."""
    weight_decay: float = 0.1
    """On matrices only."""
    clip: float = 1.0
    """Largest gradient norm; 0 = no limit."""
    seed: int = 0
    """Decides the initial weights and the order of the windows."""
    save_every: int = 500
    """Steps between checkpoints; 0 = at the end only."""
    eval_every: int = 500
    """Steps between validation losses; 0 = at the end only."""
    eval_documents: int = 400
    """How many of the held-out documents to use, from the first."""
    micro_tokens: int = 16384
    """Tokens in one forward and backward pass: bounds memory, changes no result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the passes; weights and optimizer stay float32. auto = what is faster here, measured at
    the first start and kept in choices.json; float32 for models narrower than 256."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    profile: bool = False
    """Say at the end where the time went, phase by phase, and write it to profile.md."""
    trace_steps: int = 0
    """Steps after the first to record in trace.json, for chrome://tracing or Perfetto; 0 = none."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "micro_tokens", "eval_documents"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "give a whole number of at least 1")
        for name in ("kv_heads", "lr", "warmup", "weight_decay", "clip", "save_every", "eval_every"):
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "give a number of at least 0")
        if not 0 <= self.beta2 < 1:
            raise _wrong("beta2", self.beta2, "give a number from 0 up to, not including, 1")
        if not (self.length == 0 or 2 <= self.length <= self.context):
            raise _wrong(
                "length", self.length, f"give 2 to {self.context} (the context), or 0 for the context"
            )

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The model to train; ConfigError when the sizes make none."""
        if self.family == "llama":
            return ModelConfig.llama(
                vocab_size=vocab_size,
                width=self.width,
                layers=self.layers,
                heads=self.heads,
                kv_heads=self.kv_heads or self.heads,
                context=self.context,
                tied=self.tied,
            )
        if self.kv_heads not in (0, self.heads):
            raise _wrong("kv_heads", self.kv_heads, "leave it out: a gpt2 model has as many as heads")
        return ModelConfig.gpt2(
            vocab_size=vocab_size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            context=self.context,
            tied=self.tied,
        )


def train(config: PretrainConfig) -> dict[str, Any]:
    """Train, or go on where the run folder stopped; returns the summary.

    Metrics: `loss`, `validation_loss` in nats per token, `lr`, `grad_norm`, `tokens_per_second`. Summary:
    `checkpoint`, `loss` (mean of the last steps), `validation_loss` (None without held-out texts),
    `parameters`, `tokens_seen`, `data_tokens`, `steps`.

    Raises:
        ConfigError, DataError, CheckpointError, StorageError: see flags, texts, tokenizer, disk.
        CheckError: the loss is no longer a finite number.
        Interrupted: Ctrl-C; all is saved.
    """
    tune_malloc()
    inputs = _inputs(config)
    device = pick_device(config.device)
    tokenizer = Tokenizer.load(config.tokenizer)
    model_config = config.model_config(tokenizer.vocab_size)
    length = config.length or config.context
    with open_run(config.out, "pretrain", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        shards = _shards(run, config, tokenizer)
        draw = shards.batch if config.separate else shards.windows
        held_out = _held_out(config, tokenizer)
        if run.latest is None:
            model = new_language_model(model_config, derive_seed(config.seed, "pretrain"))
        else:
            model = load_language_model(run.latest)
        model.to(device)
        dtype = settle(run.folder, config.dtype, model)
        run.computes(device, dtype)
        optimizer = adamw(model, config.lr, (0.9, config.beta2), weight_decay=config.weight_decay)
        restore_optimizer(optimizer, model, run.load_state()[1], _OPTIMIZER)
        validation: float | None = None
        clock = time.monotonic()
        for step in run.steps(run.start, config.steps, config.save_every):
            done = step + 1
            lr = config.lr * cosine(step, config.steps, config.warmup)
            with phase("data"):
                windows = all_counted(draw(step, config.batch, length, config.seed))
            with phase("update"):
                loss = accumulate(model, windows, 1.0, config.micro_tokens, dtype)
                norm = _update(model, optimizer, lr, config.clip, f"{run.folder}, step {done}")
                work(training_flops(model, config.batch * length, counted(windows)))
            speed = config.batch * length / (time.monotonic() - clock)
            validation = None
            if done == config.steps or (config.eval_every and done % config.eval_every == 0):
                with phase("evaluate"):
                    validation = mean_loss(model, held_out, config.micro_tokens, dtype)
            measured = {} if validation is None else {"validation_loss": validation}
            run.log(done, loss=loss, lr=lr, grad_norm=norm, tokens_per_second=round(speed, 1), **measured)
            if run.should_save(done):
                tensors = optimizer_tensors(optimizer, model, _OPTIMIZER)
                run.save(done, lambda folder: write_checkpoint(model, tokenizer, folder), tensors)
            clock = time.monotonic()
        if validation is None:  # killed between the last checkpoint and here: no step was left to do
            validation = mean_loss(model, held_out, config.micro_tokens, dtype)
        return run.finish(
            {
                "checkpoint": str(run.checkpoint(config.steps).relative_to(run.folder)),
                "loss": _recent_loss(run),
                "validation_loss": validation,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "data_tokens": shards.tokens,
                "tokens_seen": config.steps * config.batch * length,
                "steps": config.steps,
            }
        )


def write_checkpoint(model: LanguageModel, tokenizer: Tokenizer, folder: Path) -> None:
    """A complete folder that transformers opens: weights, configuration, tokenizer, generation defaults."""
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_model(model, folder, special=special)
    tokenizer.save(folder)


def _recent_loss(run: Run) -> float | None:
    """Mean loss of the last 100 steps, those before a restart included; None where no step is on record."""
    losses = [row["loss"] for row in read_metrics(run.folder / "metrics.jsonl")[-100:]]
    return sum(losses) / len(losses) if losses else None


def _inputs(config: PretrainConfig) -> dict[str, str]:
    for name, value in (("data", config.data), ("tokenizer", config.tokenizer)):
        if not value:
            cure = "give a .jsonl or .txt file" if name == "data" else "make one with `instructgpt tokenizer`"
            raise ConfigError(f"no {name} was named", f"--{name}", cure)
    endings = (*JSONL_ENDINGS, *TEXT_ENDINGS)
    folder = Path(config.tokenizer)
    return {
        "data": ",".join(map(str, expand(config.data, endings))),
        "validation": ",".join(map(str, expand(config.validation, endings))) if config.validation else "",
        "tokenizer": f"{folder / 'tokenizer.json'},{folder / 'tokenizer_config.json'}",
    }


def _shards(run: Run, config: PretrainConfig, tokenizer: Tokenizer) -> TokenShards:
    """The texts as token ids on disk, written at the first start (whole or not at all)."""
    inputs = run.identity["inputs"]
    folder = run.folder / f"tokens-{derive_seed(inputs['data'], inputs['tokenizer']):016x}"
    if folder.exists():
        return TokenShards.open(folder, tokenizer)
    return write_shards(read_texts(config.data), tokenizer, folder)


def _held_out(config: PretrainConfig, tokenizer: Tokenizer) -> list[Rendered]:
    """Held-out documents as bos, text, eos, cut at the context; each piece starts at position 0."""
    if not config.validation:
        return []
    texts = [text.text for text in read_texts(config.validation)[: config.eval_documents]]
    head = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    documents = [[*head, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
    size = config.context
    return all_counted(
        [ids[i : i + size] for ids in documents for i in range(0, len(ids), size) if len(ids) - i > 1]
    )


def _update(
    model: LanguageModel, optimizer: torch.optim.Optimizer, lr: float, max_norm: float, where: str
) -> float:
    """Take the step and clear the gradients; returns their norm before clipping."""
    norm = clip_gradients(model.parameters(), max_norm)
    if not math.isfinite(norm):
        raise CheckError(
            f"the gradient's norm is {norm}, so the step was not taken; the last checkpoint is good",
            where,
            "start again in another --out with a smaller --lr or a longer --warmup",
        )
    set_lr(optimizer, lr)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def _wrong(name: str, value: object, cure: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(f"{flag} is {value}", flag, cure)
