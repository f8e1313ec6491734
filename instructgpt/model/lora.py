"""LoRA (arXiv:2106.09685): low-rank changes beside frozen linear layers, y = W x + b + scale B A x.

B is 0 at the start, so that an adapted model begins as its base. Several models may stand over one base: they
share its tensors, and each has its own A and B.

Our layers hold what other programs keep apart (query, key and value are one product, so are gate and up).
Each such part has its own A and B, so that an adapter is one of PEFT's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instructgpt.errors import ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.int8 import Int8Linear, rounded
from instructgpt.model.linear import Linear
from instructgpt.model.lora_settings import GROUPS, Lora
from instructgpt.model.names import name_table

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Part:
    """Rows of one of our layers that are a layer of its own in a Hugging Face checkpoint."""

    layer: str
    """Ours, such as transformer.blocks.0.attention.qkv."""
    theirs: str
    """Such as model.layers.0.self_attn.q_proj."""
    start: int
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """The last word of `theirs`: unique within our layer."""
        return self.theirs.rsplit(".", 1)[1]

    @property
    def kind(self) -> str:
        """The last two words: the same in every block, such as self_attn.q_proj or mlp.c_proj."""
        return ".".join(self.theirs.split(".")[-2:])


@dataclass(frozen=True)
class Attached:
    """What an adapted model's adapters are, and the base that they stand over."""

    lora: Lora
    folder: Path
    """The base's checkpoint."""
    fingerprint: str
    """Hash of its weights and shape."""


def parts_of(config: ModelConfig) -> list[Part]:
    """Every linear layer of attention and feed-forward, in checkpoint order."""
    found = []
    for entry in name_table(config, "language"):
        if ".blocks." not in entry.ours or entry.columns is None:
            continue
        start = 0
        for theirs, rows in zip(entry.theirs, entry.rows, strict=True):
            layer = entry.ours.removesuffix(".weight")
            found.append(Part(layer, theirs.removesuffix(".weight"), start, rows, entry.columns))
            start += rows
    return found


def targeted(config: ModelConfig, targets: str) -> list[Part]:
    """The layers that `--lora-targets` means.

    Raises:
        ConfigError: the model has no layer of such a name; the cure names those that it has.
    """
    parts = parts_of(config)
    chosen: set[str] = set()
    for word in (word.strip() for word in targets.split(",") if word.strip()):
        if word in GROUPS:
            inside = {"all": ("attention", "feed"), "attention": ("attention",), "mlp": ("feed",)}[word]
            matching = {part.theirs for part in parts if part.layer.split(".")[-2] in inside}
        else:
            matching = {part.theirs for part in parts if f".{part.theirs}".endswith(f".{word}")}
        if not matching:
            kinds = dict.fromkeys(part.kind for part in parts)
            raise ConfigError(
                f"the model has no layers named {word!r}",
                "--lora-targets",
                f"use all, attention, mlp, or some of {', '.join(kinds)}",
            )
        chosen |= matching
    return [part for part in parts if part.theirs in chosen]


class LoraLinear(nn.Module):
    """A frozen layer with the changes of some of its parts; the others stay as they are."""

    def __init__(self, base: Linear | Int8Linear, parts: list[Part], lora: Lora) -> None:
        """`parts` of one layer, those to be changed; A and B are made empty, see `add_adapters`."""
        super().__init__()
        self.base = base
        self.scale = lora.scale
        self.places = [(part.name, part.start, part.rows) for part in parts]
        device = base.bias.device if base.bias is not None else next(iter(_tensors(base))).device
        # PEFT's letters, so that one name stands for a matrix here and in the file.
        self.lora_A = nn.ParameterDict(
            {part.name: nn.Parameter(torch.empty(lora.rank, part.columns, device=device)) for part in parts}
        )
        self.lora_B = nn.ParameterDict(
            {part.name: nn.Parameter(torch.zeros(part.rows, lora.rank, device=device)) for part in parts}
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        result: Tensor = self.base(inputs)
        changes = []
        filled = 0
        for name, start, rows in self.places:
            if start > filled:
                changes.append(result.new_zeros(*result.shape[:-1], start - filled))
            # Scaled where it is narrow. Plain products: each new shape costs oneDNN milliseconds.
            low = F.linear(inputs, self.lora_A[name]) * self.scale
            changes.append(F.linear(low, self.lora_B[name]))
            filled = start + rows
        if filled < result.shape[-1]:
            changes.append(result.new_zeros(*result.shape[:-1], result.shape[-1] - filled))
        return result + (changes[0] if len(changes) == 1 else torch.cat(changes, dim=-1))


def share(module: Module) -> Module:
    """A copy of a module's structure over the very same tensors."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})


def copy_trained(module: Module) -> Module:
    """A copy with its own trained parameters over the very same frozen ones."""
    return copy.deepcopy(module, {id(p): p for p in _tensors(module) if not p.requires_grad})


def to_int8(module: nn.Module, config: ModelConfig) -> None:
    """Store the matrices of attention and feed-forward layers in 8 bits, in place, one after another.

    Embeddings, norms, biases and heads stay as they are.
    """
    for name in dict.fromkeys(part.layer for part in parts_of(config)):
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        module.set_submodule(name, Int8Linear(layer))


def add_adapters(module: nn.Module, config: ModelConfig, lora: Lora, seed: int = 0) -> None:
    """Put adapters beside the targeted layers of a model (`transformer` is a child of it), in place.

    A is drawn uniformly with variance 1 / (3 in), as PEFT and the paper's code do; B is 0: nothing changes.

    Raises:
        ConfigError: see `targeted`.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, list[Part]] = {}
    for part in targeted(config, lora.targets):
        layers.setdefault(part.layer, []).append(part)
    for name, parts in layers.items():
        base = module.get_submodule(name)
        assert isinstance(base, Linear | Int8Linear)
        adapted = LoraLinear(base, parts, lora)
        with torch.no_grad():
            for part in parts:
                draw = torch.rand(lora.rank, part.columns, generator=generator)
                adapted.lora_A[part.name].copy_((2 * draw - 1) / math.sqrt(part.columns))
        module.set_submodule(name, adapted)


def adapters(module: nn.Module, config: ModelConfig) -> dict[str, Tensor]:
    """A and B of every adapted layer under PEFT's names, without their prefix `base_model.model.`."""
    found: dict[str, Tensor] = {}
    for part in parts_of(config):
        layer = module.get_submodule(part.layer)
        if isinstance(layer, LoraLinear) and part.name in layer.lora_A:
            found[f"{part.theirs}.lora_A.weight"] = layer.lora_A[part.name]
            found[f"{part.theirs}.lora_B.weight"] = layer.lora_B[part.name]
    return found


def merge(module: nn.Module, config: ModelConfig, lora: Lora, tensors: Mapping[str, Tensor]) -> None:
    """Add an adapter's changes to a plain model's own matrices, in place: W + scale B A.

    Over an 8-bit base the matrices are rounded first, so that the result is the model that was trained.
    """
    if lora.base == "int8":
        for name in dict.fromkeys(part.layer for part in parts_of(config)):
            weight = module.get_parameter(f"{name}.weight")
            weight.data = rounded(weight.data)
    _add(module, config, lora, tensors, 1.0)


def unmerge(module: nn.Module, config: ModelConfig, lora: Lora, tensors: Mapping[str, Tensor]) -> None:
    """Take an adapter's changes out of a merged model again, in place (an 8-bit base stays rounded)."""
    _add(module, config, lora, tensors, -1.0)


def _add(
    module: nn.Module, config: ModelConfig, lora: Lora, tensors: Mapping[str, Tensor], sign: float
) -> None:
    with torch.no_grad():
        for part in targeted(config, lora.targets):
            a, b = (tensors[f"{part.theirs}.lora_{letter}.weight"].float() for letter in "AB")
            weight = module.get_parameter(f"{part.layer}.weight")
            rows = weight[part.start : part.start + part.rows]
            rows.add_((b @ a).to(weight.device, weight.dtype), alpha=sign * lora.scale)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
