"""Every knob of the sweep, and the runs that it asks for."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from instructgpt.errors import ConfigError
from instructgpt.rlhf.settings import PPOConfig

# Of the PPO settings: what the sweep itself decides, and what bounds memory but changes no result.
_NOT_SHARED = {"out", "ptx_coef", "beta", "max_tokens", "max_active"}


@dataclass(frozen=True)
class SweepConfig:
    """PPO-ptx at several ptx coefficients and betas: what pretraining text pays for the reward gained.

    Flags of PPO itself are given as --ppo.NAME, or in a table [ppo] of the file for --config.
    """

    out: str = ""
    """Run folder; each combination gets a complete run folder of PPO in it."""
    ptx_coefs: str = ""
    """Values of --ppo.ptx-coef with commas between, 0 among them for PPO alone; empty = the one of --ppo."""
    betas: str = ""
    """Values of --ppo.beta with commas between, the usual one first; empty = the one of --ppo."""
    cross: bool = False
    """Vary one at a time: only combinations with the first ptx coefficient or with the first beta."""
    processes: int = 1
    """Runs trained at the same time, each in a process of its own with its share of the cores."""
    prompts: str = ""
    """Held-out prompts to measure on: a JSONL file, a glob, or several with commas."""
    count: int = 500
    """How many of them, from the first; 0 = all."""
    text: str = ""
    """Held-out pretraining text whose loss is taken."""
    judge: str = ""
    """Who else scores: as in `eval`, a reward-model checkpoint, module:function, practice or practice:FOLDER;
    empty = nobody."""
    weights: Literal["raw", "ema"] = "raw"
    """Which weights of a finished run are measured: the policy's, or their moving average (--ppo.ema)."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """What all runs share; its seed also decides the replies that are measured."""

    def __post_init__(self) -> None:
        if self.processes < 1 or self.count < 0:
            what, flag = f"{self.processes} processes, {self.count} prompts", "--processes, --count"
            raise ConfigError(what, flag, "use at least 1 process, and 0 (all) or more prompts")
        if self.ppo.out:
            raise ConfigError("the sweep names the folders of its runs", "--ppo.out", "use --out")
        if self.weights == "ema" and self.ppo.ema == 0:
            what = "there is no moving average to measure"
            raise ConfigError(what, "--weights ema", "give --ppo.ema 0.992")
        for point in self.points:
            replace(self.ppo, ptx_coef=point.ptx_coef, beta=point.beta)  # refuses what PPO refuses

    @property
    def points(self) -> list[Point]:
        """The runs, betas inside ptx coefficients.

        Raises:
            ConfigError: a list that is not of numbers.
        """
        coefs = _numbers("--ptx-coefs", self.ptx_coefs) or [self.ppo.ptx_coef]
        betas = _numbers("--betas", self.betas) or [self.ppo.beta]
        return [
            Point(coef, beta)
            for coef in coefs
            for beta in betas
            if not self.cross or coef == coefs[0] or beta == betas[0]
        ]

    def ppo_of(self, point: Point) -> PPOConfig:
        """The flags of one run."""
        folder = Path(self.out) / point.name
        return replace(self.ppo, out=str(folder), ptx_coef=point.ptx_coef, beta=point.beta)

    def shared(self) -> dict[str, Any]:
        """What every run and every measurement of the folder has in common; lists may grow."""
        ppo = {f"ppo.{key}": value for key, value in asdict(self.ppo).items() if key not in _NOT_SHARED}
        return {"count": self.count, "judge": self.judge, "weights": self.weights} | ppo


@dataclass(frozen=True)
class Point:
    """One run of the sweep."""

    ptx_coef: float
    beta: float

    @property
    def name(self) -> str:
        """Its folder: ptx-0.5_beta-0.2."""
        return f"ptx-{self.ptx_coef:g}_beta-{self.beta:g}"


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _numbers(flag: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"{flag} is {text!r}", flag, "give numbers with commas between: 0,0.1,1") from error
    return list(dict.fromkeys(found))
