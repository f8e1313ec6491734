"""Two checkpoints become one between them, if their shapes and tokenizers agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch

from instructgpt.errors import CheckpointError
from instructgpt.model.heads import LanguageModel, ScalarModel
from instructgpt.model.hf import converted, load_language_model, load_scalar_model, read_hf_config
from instructgpt.model.interpolate import interpolate
from instructgpt.scoring.selftest import FILE as SELFTEST
from instructgpt.scoring.selftest import check_selftest
from instructgpt.text.tokenizer import Tokenizer


def open_any(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel | ScalarModel:
    """The language, reward or value model of a checkpoint; a reward model proves its head first.

    Raises:
        CheckpointError: it can't be opened, or a reward model does not reproduce its own scores.
    """
    if not is_scalar(folder):
        return load_language_model(folder, dtype)
    model = load_scalar_model(folder)
    if (folder / SELFTEST).is_file():
        check_selftest(folder, model, Tokenizer.load(folder))
    return converted(model, dtype)


def is_scalar(folder: Path) -> bool:
    """Whether a model folder holds a reward or value model."""
    architectures = read_hf_config(folder).get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def mix(first: Path, second: Path, alpha: float) -> LanguageModel | ScalarModel:
    """(1 - alpha) first + alpha second in float32; memory for both models at once.

    Raises:
        CheckpointError: kind, shape or tokenizer differ; it names the first difference.
    """
    difference = tokenizer_difference(first, second)
    if difference is not None:
        raise CheckpointError(
            f"the two models have different tokenizers, the first difference at {difference}",
            where=f"{first}, {second}",
            cure="give a model and what training made of it: an id must mean the same in both",
        )
    ours, theirs = open_any(first), open_any(second)
    try:
        return interpolate(ours, theirs, alpha)  # type: ignore[type-var]
    except CheckpointError as error:
        raise CheckpointError(error.what, f"{first}, {second}", error.cure) from error


def tokenizer_difference(first: Path, second: Path) -> str | None:
    """Where two folders' tokenizers first differ, with both values; None if they turn text into equal ids.

    Padding, truncation and chat template do not count: they do not change what an id means.
    """
    ours, theirs = _rules(first), _rules(second)
    return _difference(ours, theirs, "")


def _rules(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"the tokenizer can't be read: {error}",
            where=str(path),
            cure="put the model's tokenizer.json beside its weights",
        ) from error
    backend.no_padding()
    backend.no_truncation()
    return json.loads(backend.to_str())  # in the library's own form, whatever version wrote the file


def _difference(ours: Any, theirs: Any, place: str) -> str | None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            inside = f"{place}.{key}" if place else str(key)
            if key not in ours or key not in theirs:
                return f"{inside} (only in the {'first' if key in ours else 'second'})"
            if found := _difference(ours[key], theirs[key], inside):
                return found
        return None
    if isinstance(ours, list) and isinstance(theirs, list):
        for number, (left, right) in enumerate(zip(ours, theirs, strict=False)):
            if found := _difference(left, right, f"{place}[{number}]"):
                return found
        if len(ours) != len(theirs):
            return f"{place} ({len(ours)} and {len(theirs)} entries)"
        return None
    return None if ours == theirs else f"{place} ({_short(ours)} and {_short(theirs)})"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
