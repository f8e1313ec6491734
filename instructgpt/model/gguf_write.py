"""Export to GGUF, so that llama.cpp and what is built on it runs a model made here.

Needs the `gguf` extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from instructgpt.errors import CheckpointError, ConfigError, StorageError
from instructgpt.model.config import ModelConfig
from instructgpt.model.gguf_layout import (
    ARCHITECTURES,
    ROPE_FREQUENCIES,
    divisors,
    rotary_heads,
    tensor_names,
    to_pairs,
    write_shape,
)
from instructgpt.model.gguf_tokenizer import write_tokenizer
from instructgpt.model.hf import load_language_model
from instructgpt.model.names import Entry, name_table

GGUFType = Literal["f32", "f16", "q8_0"]
TYPES: tuple[str, ...] = get_args(GGUFType)
_FILE_TYPE = {"f32": 0, "f16": 1, "q8_0": 7}  # general.file_type
_BLOCK = 32  # numbers of a row that share a scale in Q8_0
_LARGEST_F16 = 65504.0


def export_gguf(folder: str | Path, path: str | Path, kind: GGUFType, name: str = "") -> ModelConfig:
    """Write the language model, tokenizer and chat template of a model folder as one GGUF file.

    kind: of the matrices; vectors and GPT-2's positions stay f32, and with q8_0 rows that are not a multiple
        of 32 long become f16, as in llama.cpp's own conversion.
    name: `general.name`.
    Raises `ConfigError` without the `gguf` package or for what llama.cpp has not, `CheckpointError` for a
    folder that can't be exported, `StorageError` when the disk refuses.
    """
    try:
        from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter
        from gguf.quants import quantize
    except ImportError as error:
        raise ConfigError(
            "writing GGUF files needs the gguf package",
            where="--to gguf",
            cure="pip install 'instructgpt[gguf]'",
        ) from error
    folder, path = Path(folder), Path(path)
    model = load_language_model(folder)
    config = model.config
    fields = write_shape(config) | write_tokenizer(folder, config.vocab_size)
    fields |= {"general.file_type": _FILE_TYPE[kind], "general.quantization_version": GGML_QUANT_VERSION}
    if name:
        fields["general.name"] = name
    writer = GGUFWriter(None, ARCHITECTURES[config.family])
    for key, value in fields.items():
        _add(writer, key, value)
    ours = {name: p.detach() for name, p in model.named_parameters()}
    names = {theirs: name for name, theirs in tensor_names(config).items()}
    for entry in name_table(config, "language"):
        for theirs, rows in _parts(entry, ours[entry.ours]).items():
            if heads := rotary_heads(config, theirs):
                rows = to_pairs(rows, heads)
            stem, _, part = theirs.rpartition(".")
            stored = _stored_kind(names[stem], rows, kind)
            _check_range(rows, stored, f"{names[stem]}.{part}", path)
            quantised = GGMLQuantizationType[stored.upper()]
            # Unquantised arrays carry their own type; quantised ones are bytes and need it named.
            raw = quantised if stored == "q8_0" else None
            writer.add_tensor(f"{names[stem]}.{part}", quantize(rows.numpy(), quantised), raw_dtype=raw)
    if config.rope is not None and config.rope.kind == "llama3":
        writer.add_tensor(ROPE_FREQUENCIES, divisors(config).numpy())
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError as error:
        raise StorageError(
            f"can't write the model: {error}", where=str(path), cure="free some space, check permissions"
        ) from error
    finally:
        writer.close()
    return config


def _parts(entry: Entry, tensor: Tensor) -> dict[str, Tensor]:
    """One of our tensors as llama.cpp cuts it: rows in our own orientation (never GPT-2's turned one)."""
    parts = tensor.split(entry.rows)
    return {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}


def _stored_kind(name: str, rows: Tensor, kind: GGUFType) -> GGUFType:
    if rows.dim() < 2 or name == "position_embd":
        return "f32"
    return "f16" if kind == "q8_0" and rows.shape[-1] % _BLOCK else kind


def _check_range(rows: Tensor, kind: GGUFType, name: str, path: Path) -> None:
    if not torch.isfinite(rows).all():
        raise CheckpointError(
            f"{name} has numbers that are not finite", where=str(path), cure="use an earlier checkpoint"
        )
    # The scale of a Q8_0 block is a float16 of a 127th of its largest number.
    largest = _LARGEST_F16 * {"f32": np.inf, "f16": 1.0, "q8_0": 127.0}[kind]
    if float(rows.abs().max()) > largest:
        raise CheckpointError(
            f"{name} has numbers beyond what {kind} can hold", where=str(path), cure="use --type f32"
        )


def _add(writer: Any, key: str, value: Any) -> None:
    """One field of metadata, by its Python type; whole numbers are uint32, as llama.cpp reads them."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
