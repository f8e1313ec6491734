"""The files of a Hugging Face model folder, read with care: config.json, and weights in one file or parts.

Only safetensors files are read: nothing pickled is ever loaded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from instructgpt.errors import CheckpointError
from instructgpt.model.adapter import is_adapter

WEIGHTS = "model.safetensors"
# Buffers that older versions of transformers stored beside the weights; they hold nothing learned.
_BUFFERS = re.compile(r"(\.attn\.bias|\.attn\.masked_bias|rotary_emb\.inv_freq)$")


def read_hf_config(folder: str | Path) -> dict[str, Any]:
    """Parsed config.json of a model folder. Raises `CheckpointError` when it isn't there or broken."""
    folder = Path(folder)
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if is_adapter(folder):
            raise CheckpointError(
                "this folder holds an adapter, not a complete model",
                where=str(folder),
                cure="merge it first: instructgpt convert --merge-lora FOLDER --out NEW",
            ) from error
        what = "the folder has no config.json" if folder.is_dir() else "there is no such model folder"
        raise CheckpointError(
            what,
            where=str(folder),
            cure="give a folder with config.json and model.safetensors (a run's checkpoints/step-N)",
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"config.json can't be read: {error}", where=str(path), cure="copy the checkpoint again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            "config.json is not a JSON object", where=str(path), cure="copy the checkpoint again"
        )
    return values


def read_tensors(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights of a model folder in `dtype`, in one file or several.

    Raises `CheckpointError` when they aren't there, are pickled, or broken.
    """
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    if not _BUFFERS.search(name):
                        tensors[name] = file.get_tensor(name).to(dtype)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the weights can't be read: {error}",
                where=str(path),
                cure="copy the checkpoint again, the file is damaged or cut off",
            ) from error
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The one file, or the parts that an index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        try:
            parts = sorted({str(part) for part in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"the index of the weights can't be read: {error}",
                where=str(index),
                cure="copy the checkpoint again",
            ) from error
        if any(Path(part).name != part for part in parts):
            raise CheckpointError(
                "the index names a file outside its folder",
                where=str(index),
                cure="do not use this checkpoint",
            )
        return [folder / part for part in parts]
    pickled = [path.name for path in folder.glob("*.bin")]
    what = f"only pickled weights ({pickled[0]}) are there" if pickled else f"there is no {WEIGHTS}"
    raise CheckpointError(
        what,
        where=str(folder),
        cure="give a folder with safetensors weights; pickled files can run code and are never loaded",
    )
