"""Flags of the verb `eval`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction

from instructgpt.errors import ConfigError


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate models: tasks with intervals (--suite), or replies side by side under a judge (--prompts)."""

    checkpoints: Positional[tuple[str, ...]] = ()
    """Models: checkpoints, Hugging Face folders or http://HOST:PORT/v1#MODEL, each may be name=...; the
    baseline first."""
    models: str = ""
    """The same in one text, with commas between."""
    suite: str = ""
    """Tasks and suites with commas between (docs/evaluation.md lists them); empty = compare replies."""
    data: str = ""
    """For --suite: folders with the data sets' own files, with commas between; TASK=FILE names one task's;
    hub fetches what is not found."""
    shots: int | None = None
    """For --suite: solved examples before each item; without it as is usual for the task."""
    limit: int = 0
    """For --suite: only the first so many items of a task; 0 = all."""
    chat: str = ""
    """For --suite: models to be asked through their chat template, by name with commas between, or all."""
    bos: Literal["auto", "yes", "no"] = "auto"
    """For --suite: whether texts begin with the beginning-of-document token; auto = as the tokenizer says."""
    option: Annotated[tuple[str, ...], UseAppendAction] = ()
    """For --suite: a task's own setting as TASK.NAME=VALUE or NAME=VALUE; may be given several times."""
    report: str = ""
    """Result folders of --suite with commas between, zero- and few-shot ones for example: write one report of
    them into --out and evaluate nothing. --models orders the models, the baseline first."""
    prompts: str = ""
    """Prompts to answer: .jsonl, a glob, or several with commas; empty = only the loss on text."""
    judge: str = ""
    """Who scores: practice (with --seed), practice:FOLDER, or what a --reward may be (docs/rewards.md)."""
    text: str = ""
    """Held-out text whose loss is taken; empty = none."""
    out: str = "runs/eval"
    """Run folder to write."""
    count: int = 500
    """How many prompts, from the first; 0 = all."""
    samples: int | str = 50
    """How many prompts with their replies go to samples.jsonl; or a file of released samples to measure."""
    max_new: int = 256
    """Longest reply, in tokens."""
    temperature: float = 1.0
    """Sampling temperature; the divergence is measured at 1 only."""
    seed: int = 0
    """Decides replies, solved examples and resamples (and names the practice world)."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """For --suite: precision of the models."""

    def __post_init__(self) -> None:
        if self.count < 0 or (isinstance(self.samples, int) and self.samples < 0):
            raise ConfigError("a number of prompts is negative", "--count, --samples", "use 0 or more")
        if self.limit < 0 or (self.shots is not None and self.shots < 0):
            raise ConfigError("a number of items is negative", "--limit, --shots", "use 0 or more")

    @property
    def specs(self) -> list[str]:
        """All models named, in order, as the user wrote them."""
        return [*self.checkpoints, *(part.strip() for part in self.models.split(",") if part.strip())]
