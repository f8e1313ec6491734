"""Hugging Face model folders: read strictly, written so that transformers opens them unchanged.

A language model is a `GPT2LMHeadModel` or a Llama, Mistral or Qwen `...ForCausalLM`; a scalar model is the
same family's `...ForSequenceClassification` with one label, whose `reward_bias` stands in config.json (their
own score is hidden . w; ours subtracts the bias). Only safetensors files are read: nothing pickled is ever
loaded. A folder with an adapter loads as the complete model that base and adapter make together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from instructgpt.errors import CheckpointError, StorageError
from instructgpt.model.adapter import (
    Adapter,
    check_base,
    fingerprint,
    is_adapter,
    read_adapter,
    write_adapter,
)
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf_config import model_config_from_hf, model_config_to_hf
from instructgpt.model.hf_files import WEIGHTS, read_hf_config, read_tensors
from instructgpt.model.lora import merge
from instructgpt.model.names import Entry, Head, body_prefix, name_table

__all__ = [
    "fill",
    "load_language_model",
    "load_scalar_model",
    "model_config_from_hf",
    "model_config_to_hf",
    "read_hf_config",
    "save_model",
]

Model = TypeVar("Model", bound=nn.Module)
SHARD_BYTES = 5_000_000_000
"""Weights beyond this size are written in parts, each of at most this size (one tensor is never cut)."""
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def load_language_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Open a language model of one of the families, converted to `dtype`.

    An adapter's folder gives its base with the adapter merged into it.

    Raises `CheckpointError` naming folder and key when a tensor is missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    if is_adapter(folder):
        complete = merged(read_adapter(folder))
        if not isinstance(complete, LanguageModel):
            raise CheckpointError(
                "this is the adapter of a reward or value model",
                where=str(folder),
                cure="give the folder of a language model",
            )
        return converted(complete, dtype)
    config = model_config_from_hf(read_hf_config(folder), where=str(folder / "config.json"))
    with torch.device("meta"):
        model = LanguageModel(config)
    fill(model, read_tensors(folder, dtype), folder)
    return model


def load_scalar_model(folder: str | Path, dtype: torch.dtype = torch.float32) -> ScalarModel:
    """Open a reward or value model with its `reward_bias`.

    A folder without score.weight is refused: a fresh head would give noise for rewards (field fault 19).
    An adapter's folder gives its base with the adapter merged into it.
    """
    folder = Path(folder)
    if is_adapter(folder):
        complete = merged(read_adapter(folder))
        if not isinstance(complete, ScalarModel):
            raise CheckpointError(
                "this adapter has no score.weight: it is no reward or value model, and a fresh head would "
                "score noise",
                where=str(folder),
                cure="train one with `instructgpt reward`, or give its checkpoint folder",
            )
        return converted(complete, dtype)
    values = read_hf_config(folder)
    config = model_config_from_hf(values, where=str(folder / "config.json"))
    bias = values.get("reward_bias", 0.0)
    if isinstance(bias, bool) or not isinstance(bias, int | float):
        raise CheckpointError(
            f"reward_bias is {bias!r}, not a number",
            where=str(folder / "config.json"),
            cure="set it to the mean score of the demonstrations, or 0.0",
        )
    with torch.device("meta"):
        model = ScalarModel(config)
    fill(model, read_tensors(folder, dtype), folder)
    model.reward_bias = torch.tensor(float(bias), dtype=torch.float32)
    return model


def save_model(
    model: LanguageModel | ScalarModel,
    folder: str | Path,
    *,
    special: Mapping[str, int | list[int] | None] | None = None,
    extra: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write model.safetensors, config.json and (language models) generation_config.json into `folder`.

    special: `bos_token_id`, `eos_token_id`, `pad_token_id` of the tokenizer; None is left out.
    extra: further keys of config.json.
    shard_bytes: larger weights become model-00001-of-00002.safetensors and so on, with an index.
    An adapted model's folder holds its adapter alone, in PEFT's files (see `model.adapter`).

    Raises `StorageError` when the disk refuses.
    The caller makes the folder appear atomically (written under another name, then renamed).
    """
    folder = Path(folder)
    if model.attached is not None:
        write_adapter(model, folder, special)
        return
    head: Head = "scalar" if isinstance(model, ScalarModel) else "language"
    dtype = str(model.transformer.embedding.weight.dtype).removeprefix("torch.")
    ids = {name: (special or {}).get(name) for name in _SPECIAL}
    ids = {name: value for name, value in ids.items() if value is not None}
    values = model_config_to_hf(model.config, head, dtype) | ids | dict(extra or {})
    if isinstance(model, ScalarModel):
        values["reward_bias"] = float(model.reward_bias)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(model, name_table(model.config, head), folder, shard_bytes)
        _write_json(folder / "config.json", values)
        if head == "language":
            _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"can't write the model: {error}",
            where=str(folder),
            cure="free some space, check permission and file-size limits, and run the same command again",
        ) from error


def is_scalar(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a reward or value model."""
    architectures = values.get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def body_of(folder: Path) -> LanguageModel | ScalarModel:
    """The complete model of a folder, of either kind, in float32."""
    return load_scalar_model(folder) if is_scalar(read_hf_config(folder)) else load_language_model(folder)


def merged(adapter: Adapter) -> LanguageModel | ScalarModel:
    """The complete model that an adapter and its base make together, of either kind, in float32.

    Raises `CheckpointError` when the base is missing, or another one.
    """
    model = body_of(adapter.base)
    check_base(adapter, fingerprint(adapter.base, model.config), model.config)
    merge(model, model.config, adapter.lora, adapter.tensors)
    if adapter.head is None:
        return model
    if isinstance(model, ScalarModel):
        scalar = model
    else:
        scalar = ScalarModel(model.config)
        scalar.transformer = model.transformer
    scalar.head.weight = nn.Parameter(adapter.head.clone())
    scalar.reward_bias = torch.tensor(adapter.reward_bias, dtype=torch.float32)
    return scalar


def converted(model: Model, dtype: torch.dtype) -> Model:
    """A model in `dtype`; a scalar model's reward_bias stays float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def _write_weights(
    model: LanguageModel | ScalarModel, table: list[Entry], folder: Path, shard_bytes: int
) -> None:
    """One file, or parts of at most `shard_bytes` in the table's order and the index that names them."""
    ours = dict(model.named_parameters())
    shards: list[list[Entry]] = [[]]
    filled = 0
    for entry in table:
        size = ours[entry.ours].numel() * ours[entry.ours].element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        tensors: dict[str, Tensor] = {}
        for entry in shard:
            tensors |= entry.split(ours[entry.ours].detach().cpu())
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        sizes = [ours[entry.ours].numel() * ours[entry.ours].element_size() for entry in table]
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        _write_json(folder / f"{WEIGHTS}.index.json", index)


def fill(model: LanguageModel | ScalarModel, stored: dict[str, Tensor], folder: Path) -> None:
    """Give a model made on the meta device its weights, named as in a Hugging Face checkpoint.

    `folder` is where they came from. Raises `CheckpointError` unless names and shapes fit exactly.
    """
    head: Head = "scalar" if isinstance(model, ScalarModel) else "language"
    prefix = body_prefix(model.config)
    if not any(name.startswith(prefix) for name in stored):  # a bare body, as the first GPT-2 release
        bare = ("score.", "lm_head.")
        stored = {name if name.startswith(bare) else prefix + name: t for name, t in stored.items()}
    if head == "language" and model.config.tied:
        _drop_tied_copy(stored, prefix, model, folder)
    table = name_table(model.config, head)
    expected = {name: entry.stored_shape(part) for entry in table for part, name in enumerate(entry.theirs)}
    _check_names(set(stored), set(expected), folder, head)
    for name, shape in expected.items():
        if tuple(stored[name].shape) != shape:
            raise CheckpointError(
                f"{name} has shape {tuple(stored[name].shape)}, but config.json makes it {shape}",
                where=str(folder),
                cure="config.json and weights are of different models: copy both again from one checkpoint",
            )
    state = {}
    for entry in table:
        joined = entry.join(stored).contiguous()
        # A loaded tensor may be a view of the file, and training writes in place. What was put together or
        # turned has memory of its own already.
        theirs = {
            stored.pop(name).untyped_storage().data_ptr() for name in entry.theirs
        }  # not in memory twice
        state[entry.ours] = joined.clone() if joined.untyped_storage().data_ptr() in theirs else joined
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(True)


def _drop_tied_copy(
    stored: dict[str, Tensor], prefix: str, model: LanguageModel | ScalarModel, folder: Path
) -> None:
    """Some programs write the tied head a second time; it must then be the embedding."""
    embedding = prefix + ("wte.weight" if model.config.family == "gpt2" else "embed_tokens.weight")
    copy = stored.pop("lm_head.weight", None)
    if copy is not None and embedding in stored and not torch.equal(copy, stored[embedding]):
        raise CheckpointError(
            "config.json ties the head to the embedding, but lm_head.weight is another matrix",
            where=str(folder),
            cure='set "tie_word_embeddings": false in config.json',
        )


def _check_names(stored: set[str], expected: set[str], folder: Path, head: Head) -> None:
    missing, unexpected = sorted(expected - stored), sorted(stored - expected)
    if missing == ["score.weight"] and head == "scalar":
        raise CheckpointError(
            "score.weight is missing: this is no reward or value model, and a fresh head would score noise",
            where=str(folder),
            cure="train one with `instructgpt reward`, or give its checkpoint folder",
        )
    if not missing and not unexpected:
        return
    cure = "config.json and weights do not belong together: copy both again from one checkpoint"
    if head == "language" and "score.weight" in unexpected:
        cure = "this is a reward or value model; give the folder of a language model"
    elif missing == ["lm_head.weight"]:
        cure = 'set "tie_word_embeddings": true in config.json if the head is the embedding'
    problems = [f"{_some(missing)} missing"] if missing else []
    problems += [f"{_some(unexpected)} unexpected"] if unexpected else []
    raise CheckpointError("weights do not fit: " + "; ".join(problems), where=str(folder), cure=cure)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (
        f" and {len(names) - 3} more are" if len(names) > 3 else " is" if len(names) == 1 else " are"
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
