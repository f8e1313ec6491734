"""Adapter folders in PEFT's file format, and the base that each of them names.

    adapter_model.safetensors   A and B under PEFT's names; of a reward or value model its head too
    adapter_config.json         rank, alpha, layers; `base_model_name_or_path`
    base.json                   what PEFT's file has no place for: where the base lies from here, the hash of
                                its weights and shape, their precision, reward_bias, special ids

The `peft` library opens such a folder. An adapter written by PEFT has no base.json: its base is then what
adapter_config.json names, and nothing says whether that is the right one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from instructgpt.errors import CheckpointError, StorageError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.lora import adapters, parts_of, targeted
from instructgpt.model.lora_settings import PRECISIONS, Lora

WEIGHTS, CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
_PREFIX = "base_model.model."
_HEAD = "score.weight"
# Ways to start an adapter that leave the base as it is; the others change its weights too.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_UNSUPPORTED = ("use_dora", "use_qalora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform",
                "layer_replication", "trainable_token_indices", "target_parameters",
                "alora_invocation_tokens")  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, read. `tensors` are A and B as in `lora.adapters`."""

    folder: Path
    lora: Lora
    tensors: dict[str, Tensor]
    base: Path
    """Folder of the base; it need not be there."""
    base_hash: str = ""
    """Empty: not known, the adapter was written by another program."""
    head: Tensor | None = None
    """(1, D): a reward or value model's; None for a language model."""
    reward_bias: float = 0.0
    special: dict[str, Any] = field(default_factory=dict)
    """bos_token_id and so on, for a merged model's config.json."""


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter instead of a complete model."""
    return (Path(folder) / CONFIG).is_file()


def tokenizer_folder(folder: str | Path) -> Path:
    """Where a checkpoint's tokenizer lies: beside the weights, or with the base of an adapter without one."""
    folder = Path(folder)
    alone = is_adapter(folder) and not (folder / "tokenizer.json").is_file()
    return read_adapter(folder).base if alone else folder


def fingerprint(folder: Path, config: ModelConfig) -> str:
    """Hash of a complete model: its shape and the bytes of its weight files (32 hex digits)."""
    digest = blake2b(json.dumps(asdict(config), sort_keys=True).encode(), digest_size=16)
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def write_adapter(
    model: LanguageModel | ScalarModel, folder: Path, special: Mapping[str, Any] | None = None
) -> None:
    """Write an adapted model's own part into `folder`; its base stays where it is.

    Raises:
        StorageError: the disk refuses.
    """
    attached = model.attached
    assert attached is not None, "only a model made by model.shared has a base"
    lora, scalar = attached.lora, isinstance(model, ScalarModel)
    tensors = adapters(model, model.config)
    if isinstance(model, ScalarModel):
        tensors[_HEAD] = model.head.weight
    kinds = dict.fromkeys(part.kind for part in targeted(model.config, lora.targets))
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": str(attached.folder),
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": sorted(kinds),
        "modules_to_save": ["score"] if scalar else None,
        "fan_in_fan_out": model.config.family == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    ids = {name: value for name, value in (special or {}).items() if value is not None}
    own: dict[str, Any] = {
        "path": os.path.relpath(attached.folder.resolve(), folder.resolve()),
        "hash": attached.fingerprint,
        "precision": lora.base,
        "special": ids,
    }
    if isinstance(model, ScalarModel):
        own["reward_bias"] = float(model.reward_bias)
    stored = {_PREFIX + name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
        for name, content in ((CONFIG, values), (BASE, own)):
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"can't write the adapter: {error}",
            where=str(folder),
            cure="free some space, check permission and file-size limits, and run the same command again",
        ) from error


def read_adapter(folder: str | Path) -> Adapter:
    """Read an adapter folder of ours or of PEFT's.

    Raises:
        CheckpointError: it is broken, or of a kind that can't be computed here.
    """
    folder = Path(folder)
    values, own = _read_json(folder / CONFIG), {}
    if (folder / BASE).is_file():
        own = _read_json(folder / BASE)
    _refuse_other_kinds(values, folder)
    tensors = _read_tensors(folder)
    head = tensors.pop(_HEAD, None)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if name.endswith("lora_A.weight")}
    if len(ranks) != 1:
        raise CheckpointError(
            f"the adapter has ranks {sorted(ranks)}; all layers must have one",
            where=str(folder / WEIGHTS),
            cure="give an adapter of one rank, or merge it where it was made",
        )
    precision = own.get("precision", "float32")
    try:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}")
        lora = Lora(
            rank=ranks.pop(),
            alpha=float(values["lora_alpha"]),
            targets=",".join(sorted({_kind(name) for name in tensors})),
            rslora=bool(values.get("use_rslora")),
            base=precision,
        )
        bias, known = float(own.get("reward_bias", 0.0)), str(own.get("hash", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the adapter's settings can't be read: {error}", where=str(folder), cure="copy the adapter again"
        ) from error
    base = _base_folder(folder, own, values)
    return Adapter(folder, lora, tensors, base, known, head, bias, dict(own.get("special") or {}))


def check_base(adapter: Adapter, found: str, config: ModelConfig) -> None:
    """Hold an adapter against the base that lies in its place: same hash, and layers of fitting shapes.

    Raises:
        CheckpointError: it is another base.
    """
    if adapter.base_hash and adapter.base_hash != found:
        raise CheckpointError(
            f"the base {adapter.base} is not the model that this adapter was trained over: its hash is "
            f"{found[:12]}, the adapter wants {adapter.base_hash[:12]}",
            where=str(adapter.folder / BASE),
            cure='put the old base back, or set "path" there to where it is now',
        )
    kinds = {_kind(name) for name in adapter.tensors}
    wanted: dict[str, tuple[int, ...]] = {}
    for part in parts_of(config):
        if part.kind in kinds:
            wanted[f"{part.theirs}.lora_A.weight"] = (adapter.lora.rank, part.columns)
            wanted[f"{part.theirs}.lora_B.weight"] = (part.rows, adapter.lora.rank)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.tensors.items()}
    wrong = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"the adapter does not fit its base {adapter.base}: {name} is {shapes.get(name, 'missing')}, the "
            f"base makes it {wanted.get(name, 'nothing')}",
            where=str(adapter.folder / WEIGHTS),
            cure="give the base that the adapter was trained over, and an adapter of attention and "
            "feed-forward layers in all blocks",
        )


def _kind(name: str) -> str:
    """model.layers.0.self_attn.q_proj.lora_A.weight -> self_attn.q_proj"""
    return ".".join(name.split(".")[-4:-2])


def _base_folder(folder: Path, own: Mapping[str, Any], values: Mapping[str, Any]) -> Path:
    """Where the base is: as seen from the adapter, else as PEFT's file says, seen from here or from there."""
    here = folder.resolve()
    named = str(values.get("base_model_name_or_path") or "")
    places = [here / str(own["path"])] if own.get("path") else []
    places += [Path(named), here / named] if named else []
    for place in places:
        if (place / "config.json").is_file():
            return Path(os.path.relpath(place)) if not Path(named).is_absolute() else place.resolve()
    raise CheckpointError(
        f"the base of this adapter is not there: {named or 'it names none'}",
        where=str(folder / CONFIG),
        cure='put the base back, or set "base_model_name_or_path" there to the folder of its weights '
        "(a name on the Hub must be downloaded first)",
    )


def _refuse_other_kinds(values: Mapping[str, Any], folder: Path) -> None:
    reasons = [f"{name} {values[name]!r}" for name in _UNSUPPORTED if values.get(name)]
    if values.get("peft_type") != "LORA":
        reasons.append(f"peft_type {values.get('peft_type')!r}")
    if values.get("bias", "none") != "none":
        reasons.append(f"bias {values['bias']!r}")
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        reasons.append(f"init_lora_weights {start!r}, which changes the base")
    if any(name not in ("score", "classifier") for name in values.get("modules_to_save") or ()):
        reasons.append(f"modules_to_save {values['modules_to_save']!r}")
    if reasons:
        raise CheckpointError(
            f"this kind of adapter is not computed here: {', '.join(reasons)}",
            where=str(folder / CONFIG),
            cure="merge it into its base with the program that made it, and give the merged model",
        )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"the adapter has no {WEIGHTS}",
            where=str(folder),
            cure="copy it again; pickled ones are never read",
        )
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the adapter can't be read: {error}",
            where=str(path),
            cure="copy the adapter again, the file is damaged or cut off",
        ) from error
    tensors = {name.removeprefix(_PREFIX): tensor.to(torch.float32) for name, tensor in stored.items()}
    for name in tensors:
        if name != _HEAD and not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise CheckpointError(
                f"the adapter holds {name}, which is neither A nor B of a layer",
                where=str(path),
                cure="give an adapter of linear layers alone, or merge it where it was made",
            )
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} can't be read: {error}", where=str(path), cure="copy the adapter again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path.name} is not a JSON object", where=str(path), cure="copy the adapter again"
        )
    return values
