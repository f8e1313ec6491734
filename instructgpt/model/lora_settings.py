"""What the LoRA flags of `sft`, `reward` and `ppo` say; without torch, so that `--help` stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from instructgpt.errors import ConfigError

Precision = Literal["float32", "int8"]
PRECISIONS: tuple[str, ...] = ("float32", "int8")
GROUPS = ("all", "attention", "mlp")


class LoraFlags(Protocol):
    """The fields that the configurations of the three verbs share."""

    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> float: ...
    @property
    def lora_targets(self) -> str: ...
    @property
    def lora_rslora(self) -> bool: ...
    @property
    def lora_base(self) -> Precision: ...


@dataclass(frozen=True)
class Lora:
    """How linear layers are adapted (arXiv:2106.09685): y = W x + b + scale B A x, with W and b frozen."""

    rank: int
    """Rows of A and columns of B."""
    alpha: float = 32.0
    targets: str = "all"
    """`all`, `attention`, `mlp`, or PEFT's names of layers with commas between (`q_proj,v_proj`)."""
    rslora: bool = False
    """Divide alpha by the square root of the rank, not by the rank (arXiv:2312.03732)."""
    base: Precision = "float32"
    """int8: the frozen matrices of the layers are kept in 8 bits a number."""

    @property
    def scale(self) -> float:
        """The factor on B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def flags(self) -> str:
        """As one would write it on the command line."""
        text = f"--lora-rank {self.rank} --lora-alpha {self.alpha:g} --lora-targets {self.targets}"
        text += " --lora-rslora" if self.rslora else ""
        return text + ("" if self.base == "float32" else f" --lora-base {self.base}")


def lora_of(config: LoraFlags) -> Lora | None:
    """The adapters that a configuration asks for; None where all weights are trained.

    Raises:
        ConfigError: a value that can't be, or one that has no meaning without --lora-rank.
    """
    if config.lora_rank < 0:
        raise ConfigError(
            f"--lora-rank is {config.lora_rank}",
            "--lora-rank",
            "give a rank such as 16, or 0 to train all weights",
        )
    if not 0 < config.lora_alpha < math.inf:
        raise ConfigError(f"--lora-alpha is {config.lora_alpha}", "--lora-alpha", "give a number above 0")
    if config.lora_base not in PRECISIONS:
        raise ConfigError(f"--lora-base is {config.lora_base!r}", "--lora-base", "choose float32 or int8")
    if not [name for name in config.lora_targets.split(",") if name.strip()]:
        raise ConfigError(
            "no layer is adapted",
            "--lora-targets",
            "give all, attention, mlp, or names such as q_proj,v_proj",
        )
    if config.lora_rank == 0:
        if config.lora_base != "float32":
            raise ConfigError(
                "weights that are trained can't be kept in 8 bits",
                f"--lora-base {config.lora_base}",
                "add --lora-rank 16: then the base is frozen, and adapters of that rank are trained",
            )
        return None
    return Lora(
        config.lora_rank, config.lora_alpha, config.lora_targets, config.lora_rslora, config.lora_base
    )
