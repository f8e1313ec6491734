"""What is served, by name: language models and rewards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from instructgpt.errors import ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.adapter import is_adapter, read_adapter, tokenizer_folder
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import model_config_from_hf, read_hf_config
from instructgpt.model.quantised import Weights
from instructgpt.model.shared import Bases
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.files import hash_path
from instructgpt.scoring.protocol import Reward
from instructgpt.scoring.reward import load_reward
from instructgpt.text.tokenizer import Tokenizer

_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.:@/-]*)=(?P<rest>.+)", re.DOTALL)


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory. Compared and hashed by identity: it stands for its engine, too."""

    folder: str
    model: LanguageModel = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    hash: str
    """Of the checkpoint's files, 16 hex digits (see `hash_path`)."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True)
class Served:
    """A name under which a model is served."""

    name: str
    loaded: Loaded

    @property
    def folder(self) -> str:
        """The checkpoint's folder."""
        return self.loaded.folder

    @property
    def hash(self) -> str:
        """Hash of the checkpoint, 16 hex digits."""
        return self.loaded.hash

    @property
    def fingerprint(self) -> str:
        """What replies carry as `system_fingerprint`."""
        return f"fp_{self.loaded.hash}"


@dataclass(frozen=True)
class Catalog:
    """Models and rewards by name; the first model is the default."""

    models: Mapping[str, Served]
    rewards: Mapping[str, Reward]

    @property
    def names(self) -> list[str]:
        """Names of the language models, the default first."""
        return list(self.models)

    @property
    def loaded(self) -> list[Loaded]:
        """The checkpoints in memory, each once."""
        return list(dict.fromkeys(served.loaded for served in self.models.values()))


def open_catalog(
    models: Sequence[str],
    rewards: Sequence[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    weights: Weights = "full",
    shapes_only: bool = False,
) -> Catalog:
    """Load what FOLDER and NAME=FOLDER name; what several names share is in memory once.

    Args:
        weights: how the language models' matrices are stored (see `quantised`).
        shapes_only: leave the language models without memory (on the meta device): the weights are in
            another process.

    Raises:
        ConfigError: nothing is named, or a name twice.
        CheckpointError: a folder has no model.
    """
    if not models and not rewards:
        raise ConfigError(
            "no model was named", "instructgpt serve", "give checkpoints: instructgpt serve runs/demo/ppo_ptx"
        )
    folders = _by_name(models, "instructgpt serve")
    specs = _by_name(rewards, "--rewards")
    for name in folders.keys() & specs.keys():
        raise ConfigError(
            f"{name!r} names a model and a reward", "--rewards", f"give the reward another: {name}-reward=..."
        )
    paths = {name: final_checkpoint(folder).resolve() for name, folder in folders.items()}
    loader = _Loader(list(paths.values()), device, dtype, weights, shapes_only)
    served = {name: Served(name, loader.load(path)) for name, path in paths.items()}
    return Catalog(served, {name: load_reward(spec, device) for name, spec in specs.items()})


class _Loader:
    """Loads each checkpoint once, and a base once for all that stand over it.

    An adapter alone is merged into its base, which runs fastest. Where the base is served too, or several of
    its adapters are, they share its tensors. That is for float32: in half precision, and in 8 or 4 bits,
    adapters are merged.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        device: torch.device | str,
        dtype: torch.dtype,
        weights: Weights,
        shapes_only: bool,
    ) -> None:
        self._device, self._dtype = device, dtype
        self._weights, self._shapes_only = weights, shapes_only
        self._loaded: dict[Path, Loaded] = {}
        self._bases = Bases(device)
        over = Counter(_base(path) or path for path in dict.fromkeys(paths))
        whole = dtype == torch.float32 and weights == "full"
        self._shared = {path for path, count in over.items() if count > 1 and whole}

    def load(self, path: Path) -> Loaded:
        """The checkpoint in memory."""
        if path not in self._loaded:
            if self._shapes_only:
                model, tokenizer = _shape(path, self._dtype), Tokenizer.load(tokenizer_folder(path))
            elif (_base(path) or path) in self._shared:
                precision = read_adapter(path).lora.base if is_adapter(path) else "float32"
                model = self._bases.language(path, precision).eval()
                tokenizer = Tokenizer.load(tokenizer_folder(path))
            else:
                model, tokenizer = open_model(path, self._device, self._dtype, self._weights)
            self._loaded[path] = Loaded(str(path), model, tokenizer, hash_path(path))
        return self._loaded[path]


def _base(path: Path) -> Path | None:
    """What an adapter stands over; None for a complete model."""
    return read_adapter(path).base.resolve() if is_adapter(path) else None


def _shape(path: Path, dtype: torch.dtype) -> LanguageModel:
    """The model of a checkpoint without its weights; an adapter's is its base's."""
    folder = _base(path) or path
    config = model_config_from_hf(read_hf_config(folder), where=str(folder / "config.json"))
    with torch.device("meta"):
        return LanguageModel(config).to(dtype)


def _by_name(specs: Sequence[str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for spec in specs:
        match = None if Path(spec).exists() else _NAMED.fullmatch(spec)
        name, rest = (match["name"], match["rest"]) if match else (Path(spec).name or spec, spec)
        if name in found:
            raise ConfigError(
                f"the name {name!r} is given twice",
                where,
                f"name them apart: {name}-1={found[name]} {name}-2={rest}",
            )
        found[name] = rest
    return found
