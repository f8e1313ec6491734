"""Import of GGUF files (the format of llama.cpp): models and byte-level BPE tokenizers.

Reads the architectures llama (Llama, SmolLM2, Mistral), qwen2, qwen3 and gpt2, and the tensor types of
`READABLE`; the numbers are those that the quantised file stands for. Needs the `gguf` extra.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.gguf_layout import (
    ROPE_FREQUENCIES,
    read_shape,
    rotary_heads,
    tensor_names,
    to_halves,
)
from instructgpt.model.gguf_tokenizer import read_tokenizer
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import SHARD_BYTES, fill, save_model
from instructgpt.model.names import name_table

READABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")


def import_gguf(
    path: str | Path,
    out_folder: str | Path,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = SHARD_BYTES,
) -> ModelConfig:
    """Write the model and tokenizer of a GGUF file as a complete Hugging Face folder; returns its shape.

    dtype: of the weights written; float32 keeps the dequantised numbers exactly.
    Raises `ConfigError` without the `gguf` package, `CheckpointError` for a file that is damaged or of
    another architecture, tensor type or tokenizer than those named above.
    """
    path, out_folder = Path(path), Path(out_folder)
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    found = {tensor.name: tensor for tensor in reader.tensors}
    frequencies = found.pop(ROPE_FREQUENCIES, None)
    divisors = None if frequencies is None else _dequantised(frequencies, path)
    config = read_shape(fields, set(found), divisors, path)
    with torch.device("meta"):
        model = LanguageModel(config)
    fill(model, _tensors(found, config, path, dtype), path)
    tokenizer = read_tokenizer(fields, path)
    special: dict[str, int | None] = {
        f"{name}_token_id": fields.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    eos, eot = special["eos_token_id"], fields.get("tokenizer.ggml.eot_token_id")
    ends = eos if eot in (None, eos) or eos is None else [eos, int(eot)]
    save_model(model, out_folder, special={**special, "eos_token_id": ends}, shard_bytes=shard_bytes)
    tokenizer.save(str(out_folder / "tokenizer.json"))
    names = _tokenizer_config(fields, config, special)
    text = json.dumps(names, indent=2, ensure_ascii=False) + "\n"
    (out_folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return config


def _open(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError(
            "reading GGUF files needs the gguf package",
            where=str(path),
            cure="pip install 'instructgpt[gguf]'",
        ) from error
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise CheckpointError("there is no such file", where=str(path), cure="check the path") from error
    except (OSError, ValueError, IndexError, KeyError) as error:  # what the reader raises on damaged files
        raise CheckpointError(
            f"this is not a readable GGUF file: {error}", where=str(path), cure="copy the file again"
        ) from error


def _dequantised(tensor: Any, path: Path) -> Tensor:
    """Float32 numbers of one tensor of the reader, a copy."""
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    if kind not in READABLE:
        raise CheckpointError(
            f"tensor {tensor.name} is stored as {kind}; {', '.join(READABLE)} can be read",
            where=str(path),
            cure="give a file quantised as one of these, for example the Q8_0 or F16 one",
        )
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())


def _tensors(
    found: Mapping[str, Any], config: ModelConfig, path: Path, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors under their Hugging Face names; an unknown name stays, and is refused by `fill`."""
    names = tensor_names(config)
    turned = {name for e in name_table(config, "language") if e.transposed for name in e.theirs}
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        stem, _, kind = name.rpartition(".")
        theirs = f"{names[stem]}.{kind}" if stem in names else name
        weight = _dequantised(tensor, path)
        if heads := rotary_heads(config, theirs):
            weight = to_halves(weight, heads)
        tensors[theirs] = (weight.T if theirs in turned else weight).to(dtype)
    return tensors


def _tokenizer_config(
    fields: Mapping[str, Any], config: ModelConfig, special: Mapping[str, int | None]
) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    names = {key.removesuffix("_id"): tokens[i] for key, i in special.items() if i is not None}
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.context,
    }
    if fields.get("tokenizer.chat_template"):
        values["chat_template"] = fields["tokenizer.chat_template"]
    return values
