"""Every knob of instruction tuning. [P] is arXiv:2203.02155."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError
from instructgpt.model.lora_settings import lora_of


@dataclass(frozen=True)
class SFTConfig:
    """Train a language model on demonstrations; defaults are InstructGPT's start of RL ([P], App. C.3)."""

    model: str = ""
    """Language model to start from: a checkpoint, or the folder of a finished stage."""
    data: str = ""
    """Demonstrations: JSONL file, glob, or several with commas."""
    validation: str = ""
    """Held-out demonstrations, likewise; empty = --validation-share of the data, cut off by user."""
    validation_share: float = 0.05
    """Share of the data held out where no --validation is given; 0 = none."""
    out: str = ""
    """Run folder to write, or to resume."""
    epochs: float = 2.0
    """Passes over the demonstrations. [P]: 2 for the start of RL, 16 for the SFT baselines (App. C.1)."""
    batch: int = 32
    """Demonstrations in an optimizer step. [P]: 32 (1.3B and 6B)."""
    lr: float = 1.04e-5
    """Peak learning rate; a cosine takes it down to a tenth. [P]: 5e-6 (1.3B), 1.04e-5 (6B)."""
    warmup: int = 0
    """Steps of linear warm-up. [P]: none."""
    residual_dropout: float = 0.0
    """Dropout on the residual stream. [P]: 0.2 for the SFT baselines; not said for the start of RL."""
    pretrain_data: str = ""
    """Pretraining text to mix in: .jsonl or .txt files; empty = no mix."""
    pretrain_fraction: float = 0.1
    """Share of the pretraining windows in a step and in its loss. [P]: 10 %."""
    pretrain_length: int = 128
    """Tokens in a window of pretraining text."""
    max_length: int = 0
    """Longest demonstration, prompt and reply in tokens; 0 = the model's context."""
    long_records: Literal["drop", "error"] = "drop"
    """Longer ones are left out and counted, as [P] does with prompts over 1,000 tokens, or are an error."""
    reward: str = ""
    """What chooses among the checkpoints, by the mean score of sampled replies ([P], App. C.1): a
    reward-model checkpoint or what else a --reward may be (docs/rewards.md). Empty = the lowest validation
    loss."""
    selection_prompts: str = ""
    """Prompts for that choice and for eos_rate; empty = those of the held-out demonstrations."""
    eval_prompts: int = 64
    """How many of them to answer at each checkpoint; 0 = none."""
    max_new: int = 64
    """Longest sampled reply, in tokens."""
    checkpoints_per_epoch: int = 1
    """Checkpoints to choose from, and to resume from."""
    keep: int = 0
    """Best checkpoints to keep, beside the latest, which resuming needs; 0 = keep them all."""
    eval_every: int = 100
    """Steps between validation losses, beside those at the checkpoints; 0 = only there."""
    beta2: float = 0.95
    """Adam's decay of squared gradients; the first is 0.9. [P]"""
    weight_decay: float = 0.0
    """On matrices only."""
    clip: float = 1.0
    """Largest gradient norm; 0 = no limit."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank over the frozen model instead of all its weights, and save only
    them (docs/lora.md); 0 = train all weights."""
    lora_alpha: float = 32.0
    """Adapters are scaled by this / rank."""
    lora_targets: str = "all"
    """Layers with adapters: all, attention, mlp, or PEFT's names with commas, as in q_proj,v_proj."""
    lora_rslora: bool = False
    """Scale adapters by alpha / square root of the rank (arXiv:2312.03732)."""
    lora_base: Literal["float32", "int8"] = "float32"
    """int8 keeps the frozen layers in 8 bits a number."""
    seed: int = 0
    """Decides order, dropout and samples."""
    micro_tokens: int = 8192
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
        lora_of(self)
        for name in ("batch", "micro_tokens", "checkpoints_per_epoch", "max_new"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "give a whole number of at least 1")
        not_negative = ("lr", "warmup", "max_length", "eval_prompts", "eval_every", "weight_decay", "clip")
        for name in (*not_negative, "keep"):
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "give a number of at least 0")
        for name in ("residual_dropout", "pretrain_fraction", "validation_share", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "give a number from 0 up to, not including, 1")
        if self.epochs <= 0:
            raise _wrong("epochs", self.epochs, "give a number above 0, for example 2")
        if self.pretrain_length < 2:
            raise _wrong("pretrain_length", self.pretrain_length, "give at least 2")

    @property
    def pretrain_windows(self) -> int:
        """Windows of pretraining text beside the `batch` demonstrations of a step; 0 without a mix."""
        if not self.pretrain_data or not self.pretrain_fraction:
            return 0
        return max(1, round(self.batch * self.pretrain_fraction / (1 - self.pretrain_fraction)))


def _wrong(name: str, value: object, cure: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(f"{flag} is {value}", flag, cure)
