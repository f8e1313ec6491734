"""Every knob of the reward model. [P] is arXiv:2203.02155."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError
from instructgpt.model.lora_settings import lora_of


@dataclass(frozen=True)
class RewardConfig:
    """Train a reward model on rankings, with InstructGPT's values ([P], section 3.5 and App. C.2)."""

    model: str = ""
    """Language model whose body it starts from: a checkpoint, or the folder of a finished stage."""
    data: str = ""
    """Rankings or preference pairs: JSONL file, glob, or several with commas."""
    validation: str = ""
    """Held-out rankings, likewise; empty = --validation-share of the data, cut off by user."""
    validation_share: float = 0.05
    """Share of the data held out where no --validation is given; 0 = none."""
    demonstrations: str = ""
    """Demonstrations whose mean reward becomes 0 ([P], section 3.5); empty = no shift."""
    demonstrations_limit: int = 4000
    """How many of them to use, from the first; 0 = all."""
    out: str = ""
    """Run folder to write, or to resume."""
    epochs: float = 1.0
    """Passes over the rankings. [P]: 1, more overfit."""
    batch: int = 64
    """Prompts in an optimizer step, each with all pairs of its replies. [P]: 64."""
    lr: float = 9e-6
    """Peak learning rate; a cosine takes it down to a tenth. [P]: 9e-6; changes by up to half do little."""
    warmup: int = 0
    """Steps of linear warm-up. [P]: none."""
    max_length: int = 0
    """Longest prompt with reply in tokens; 0 = the model's context. Longer ones are left out."""
    baselines: bool = True
    """Whether to measure longer-wins, shorter-wins and bag-of-words on the held-out pairs too."""
    members: int = 1
    """Train this many models that differ in their seed alone; the run folder is then an ensemble."""
    folds: int = 0
    """Cross-validate over this many groups of labelers instead: no model is kept for use. [P] E.2: 5."""
    save_every: int = 200
    """Steps between checkpoints; 0 = at the end only."""
    eval_every: int = 0
    """Steps between accuracies on the held-out rankings; 0 = at the end only."""
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
    """Decides the head's initial weights and the order of the prompts."""
    micro_tokens: int = 8192
    """Tokens in one forward and backward pass, always whole prompts: bounds memory, changes no result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the passes; weights and optimizer stay float32. auto = what is faster here, measured
    at the first start and kept in choices.json; always float32 for models narrower than 256."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    profile: bool = False
    """Say at the end where the time went, phase by phase, and write it to profile.md."""
    trace_steps: int = 0
    """Steps after the first to record in trace.json, for chrome://tracing or Perfetto; 0 = none."""

    def __post_init__(self) -> None:
        lora_of(self)
        for name in ("batch", "micro_tokens", "members"):
            if getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "give a whole number of at least 1")
        not_negative = ("lr", "warmup", "max_length", "save_every", "eval_every", "weight_decay", "clip")
        for name in (*not_negative, "demonstrations_limit"):
            if getattr(self, name) < 0:
                raise _wrong(name, getattr(self, name), "give a number of at least 0")
        for name in ("validation_share", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise _wrong(name, getattr(self, name), "give a number from 0 up to, not including, 1")
        if self.epochs <= 0:
            raise _wrong("epochs", self.epochs, "give a number above 0, for example 1")
        if self.folds < 0 or self.folds == 1:
            raise _wrong("folds", self.folds, "give at least 2 groups of labelers, or 0 for one plain run")
        if self.folds and self.members > 1:
            raise ConfigError(
                f"--folds {self.folds} and --members {self.members} exclude each other",
                "--folds, --members",
                "cross-validate in one run and train the ensemble in another",
            )


def _wrong(name: str, value: object, cure: str) -> ConfigError:
    flag = "--" + name.replace("_", "-")
    return ConfigError(f"{flag} is {value}", flag, cure)
