"""Several adapted models over one frozen base, whose tensors are in memory once.

PPO with LoRA needs four networks: the reference is the base (or the base with a frozen adapter), policy and
value network are trained adapters over it, the value network with a head of one number, and the reward model
is a frozen adapter with such a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.adapter import Adapter, check_base, fingerprint, is_adapter, read_adapter
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel, initialise_head
from instructgpt.model.hf import body_of
from instructgpt.model.lora import Attached, adapters, add_adapters, share, targeted, to_int8
from instructgpt.model.lora_settings import Lora, Precision


@dataclass(frozen=True)
class Base:
    """A complete model whose parameters are never trained."""

    model: LanguageModel | ScalarModel
    folder: Path
    fingerprint: str
    precision: Precision

    @property
    def config(self) -> ModelConfig:
        """The shape."""
        return self.model.config


class Bases:
    """The bases of one process; each is loaded once, however many models stand over it."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._open: dict[tuple[str, Precision], Base] = {}

    def open(self, folder: str | Path, precision: Precision = "float32") -> Base:
        """The frozen model of a complete checkpoint (an adapter is no base).

        Raises:
            CheckpointError: there is no complete model.
        """
        folder = Path(folder)
        key = (str(folder.resolve()), precision)
        if key not in self._open:
            model = body_of(folder)
            found = fingerprint(folder, model.config)
            if precision == "int8":
                to_int8(model, model.config)
            self._open[key] = Base(model.to(self.device).requires_grad_(False), folder, found, precision)
        return self._open[key]

    def language(self, folder: str | Path, precision: Precision = "float32") -> LanguageModel:
        """The frozen language model of a checkpoint: a base itself, or an adapter over its base.

        Raises:
            CheckpointError: it is a reward or value model, or its base is missing or another one.
            ConfigError: an adapter over a base of another precision.
        """
        if is_adapter(folder):
            model = self.attach(read_adapter(folder), precision=precision).requires_grad_(False)
        else:
            model = self.open(folder, precision).model
        if not isinstance(model, LanguageModel):
            raise CheckpointError(
                "this is a reward or value model", str(folder), "give the folder of a language model"
            )
        return model

    def scalar(self, folder: str | Path) -> ScalarModel:
        """The frozen reward or value model of a checkpoint, likewise."""
        if is_adapter(folder):
            model = self.attach(read_adapter(folder)).requires_grad_(False)
        else:
            model = self.open(folder).model
        if not isinstance(model, ScalarModel):
            raise CheckpointError(
                "this is a language model, no reward or value model",
                str(folder),
                "train one with `instructgpt reward`, or give its checkpoint folder",
            )
        return model

    def attach(self, adapter: Adapter, precision: Precision | None = None) -> LanguageModel | ScalarModel:
        """The model that an adapter and its base make; A, B and the head are its own and can be trained.

        `precision` is what the run asks for; None takes the adapter's.

        Raises:
            CheckpointError: the base is missing or another one.
            ConfigError: the adapter was trained over a base of another precision.
        """
        if precision is not None and adapter.base_hash and precision != adapter.lora.base:
            raise ConfigError(
                f"the adapter {adapter.folder} was trained over a base of {adapter.lora.base} numbers",
                f"--lora-base {precision}",
                f"use --lora-base {adapter.lora.base}",
            )
        base = self.open(adapter.base, precision or adapter.lora.base)
        check_base(adapter, base.fingerprint, base.config)
        lora = Lora(**{**vars(adapter.lora), "base": base.precision})
        model: LanguageModel | ScalarModel
        if adapter.head is None:
            model = language_over(base, lora)
        else:
            model = scalar_over(base, lora, 0)
            _set(model.head.weight, adapter.head)
            model.reward_bias.fill_(adapter.reward_bias)
        set_adapters(model, adapter)
        return model


def language_over(base: Base, lora: Lora, seed: int = 0) -> LanguageModel:
    """A language model that equals its base, with adapters to be trained.

    Raises:
        CheckpointError: the base is a reward or value model.
        ConfigError: it has no layers of the names that are to be adapted.
    """
    if not isinstance(base.model, LanguageModel):
        raise CheckpointError(
            "this is a reward or value model", str(base.folder), "give the folder of a language model"
        )
    model = share(base.model)
    _adapt(model, base, lora, seed)
    return model


def scalar_over(base: Base, lora: Lora, seed: int, zero_head: bool = False) -> ScalarModel:
    """A scalar model on the base's body with adapters and a head to be trained.

    The head is the base's own where that is a reward or value model, else as in `scalar_from_language`.
    """
    if isinstance(base.model, ScalarModel):
        model = share(base.model)
        model.head.weight = nn.Parameter(base.model.head.weight.detach().clone())
        model.reward_bias = base.model.reward_bias.clone()
    else:
        with torch.device("meta"):
            model = ScalarModel(base.config)
        model.transformer = share(base.model.transformer)
        weight = base.model.unembedding
        model.head.weight = nn.Parameter(torch.empty(1, base.config.width))
        initialise_head(model, torch.Generator().manual_seed(seed), zero_head)
        model.head.to(weight.device)
        model.reward_bias = torch.zeros((), device=weight.device)
    _adapt(model, base, lora, seed)
    model.head.requires_grad_(True)
    return model


def start_language(bases: Bases, source: str | Path, lora: Lora, seed: int) -> LanguageModel:
    """What training starts from: a complete model with fresh adapters, or an adapter that is trained further.

    Raises:
        CheckpointError: there is no language model.
        ConfigError: the adapter is not of the kind that the flags ask for.
    """
    if not is_adapter(source):
        return language_over(bases.open(source, lora.base), lora, seed)
    adapter = read_adapter(source)
    model = bases.attach(adapter, lora.base)
    if not isinstance(model, LanguageModel):
        raise CheckpointError(
            "this is the adapter of a reward or value model",
            str(source),
            "give the folder of a language model",
        )
    _same_kind(adapter, lora, model.config)
    return model


def start_scalar(
    bases: Bases, source: str | Path, lora: Lora, seed: int, zero_head: bool = False
) -> ScalarModel:
    """Likewise from a language model's checkpoint, with a new head of one number: see `scalar_over`.

    An adapter of a language model is gone on with: scalar and language model then stand over one base.
    """
    if not is_adapter(source):
        return scalar_over(bases.open(source, lora.base), lora, seed, zero_head)
    start = start_language(bases, source, lora, seed)
    assert start.attached is not None
    base = bases.open(start.attached.folder, lora.base)
    model = scalar_over(base, start.attached.lora, seed, zero_head)
    set_adapters(model, read_adapter(source))
    return model


def _same_kind(adapter: Adapter, lora: Lora, config: ModelConfig) -> None:
    """An adapter that is trained further keeps its rank, scale and layers; other flags are a mistake."""
    same = adapter.lora.rank == lora.rank and adapter.lora.scale == lora.scale
    if not same or targeted(config, adapter.lora.targets) != targeted(config, lora.targets):
        raise ConfigError(
            f"the adapter {adapter.folder} is trained further, and it is of another kind",
            lora.flags(),
            f"use {adapter.lora.flags()}, or merge it first: instructgpt convert --merge-lora "
            f"{adapter.folder} --out NEW",
        )


def set_adapters(model: LanguageModel | ScalarModel, adapter: Adapter) -> None:
    """Give an adapted model an adapter's A and B."""
    ours = adapters(model, model.config)
    for name, tensor in adapter.tensors.items():
        _set(ours[name], tensor)


def _adapt(model: LanguageModel | ScalarModel, base: Base, lora: Lora, seed: int) -> None:
    add_adapters(model, base.config, lora, seed)
    model.attached = Attached(lora, base.folder, base.fingerprint)


def _set(parameter: torch.Tensor, value: torch.Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
