"""GGUF names and sizes of the families, read both ways (llama.cpp's `llama`, `qwen2`, `qwen3`, `gpt2`).

llama.cpp knows Mistral as `llama`; the window stands in `llama.attention.sliding_window`, which it does not
read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.rope import attention_scale, inverse_frequencies

ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Family -> general.architecture."""
ROPE_FREQUENCIES = "rope_freqs.weight"
"""(d / 2,): what each rotary frequency is divided by (Llama 3.1)."""
_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GPT2_TENSORS = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GPT2_LAYER_TENSORS = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """GGUF name without .weight or .bias -> the name in a Hugging Face checkpoint, likewise."""
    gpt2 = config.family == "gpt2"
    names = dict(_GPT2_TENSORS if gpt2 else _TENSORS)
    layer_names = _GPT2_LAYER_TENSORS if gpt2 else _LAYER_TENSORS
    body = "transformer.h" if gpt2 else "model.layers"
    for i in range(config.layers):
        names |= {f"blk.{i}.{ours}": f"{body}.{i}.{theirs}" for ours, theirs in layer_names.items()}
    return names


def rotary_heads(config: ModelConfig, name: str) -> int:
    """Heads of a tensor (Hugging Face name) whose rows llama.cpp keeps in another order; 0 for the others."""
    if ARCHITECTURES[config.family] != "llama":
        return 0
    if "q_proj." in name:
        return config.heads
    return config.kv_heads if "k_proj." in name else 0


def to_halves(rows: Tensor, heads: int) -> Tensor:
    """Each head's rows from llama.cpp's rotary layout (neighbours are pairs) to Hugging Face's (halves)."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, -1).transpose(1, 2).reshape(rows.shape)


def to_pairs(rows: Tensor, heads: int) -> Tensor:
    """The way back of `to_halves`."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, 2, size // 2, -1).transpose(1, 2).reshape(rows.shape)


def needed(fields: Mapping[str, Any], key: str, path: Path) -> Any:
    """A field of the metadata. Raises `CheckpointError` when it is not there."""
    if key not in fields:
        raise CheckpointError(
            f"the metadata has no {key}", where=str(path), cure="convert the model to GGUF again"
        )
    return fields[key]


def read_shape(
    fields: Mapping[str, Any], tensors: set[str], frequencies: Tensor | None, path: Path
) -> ModelConfig:
    """The model that the metadata describes.

    tensors: the names in the file. frequencies: `rope_freqs.weight`, if there.
    Raises `CheckpointError` for another architecture, or what we do not compute.
    """
    architecture = needed(fields, "general.architecture", path)
    if architecture not in ARCHITECTURES.values():
        raise CheckpointError(
            f"architecture is {architecture!r}; llama, qwen2, qwen3 and gpt2 can be imported",
            where=str(path),
            cure="give the GGUF file of a Llama, Mistral, Qwen 2, Qwen 2.5, Qwen 3 or GPT-2 model",
        )
    if fields.get(f"{architecture}.expert_count", 0):
        raise CheckpointError("this is a mixture of experts", where=str(path), cure="give a dense model")
    try:
        if architecture == "gpt2":
            return _read_gpt2(fields, tensors, path)
        return _read_rotary(architecture, fields, tensors, frequencies, path)
    except ConfigError as error:
        raise CheckpointError(
            f"the sizes do not make a model: {error.what}", where=str(path), cure="copy the file again"
        ) from error


def _read_gpt2(fields: Mapping[str, Any], tensors: set[str], path: Path) -> ModelConfig:
    return ModelConfig.gpt2(
        vocab_size=len(needed(fields, "tokenizer.ggml.tokens", path)),
        width=_whole(fields, "gpt2.embedding_length", path),
        layers=_whole(fields, "gpt2.block_count", path),
        heads=_whole(fields, "gpt2.attention.head_count", path),
        context=_whole(fields, "gpt2.context_length", path),
        ffn_width=_whole(fields, "gpt2.feed_forward_length", path),
        tied="output.weight" not in tensors,
        norm_eps=_decimal(needed(fields, "gpt2.attention.layer_norm_epsilon", path)),
    )


def _read_rotary(
    architecture: str, fields: Mapping[str, Any], tensors: set[str], frequencies: Tensor | None, path: Path
) -> ModelConfig:
    key = f"{architecture}.{{}}".format
    heads = _whole(fields, key("attention.head_count"), path)
    width = _whole(fields, key("embedding_length"), path)
    head_dim = _whole(fields, key("attention.key_length"), path, width // heads)
    for other in ("attention.value_length", "rope.dimension_count"):
        if _whole(fields, key(other), path, head_dim) != head_dim:
            raise CheckpointError(
                f"{key(other)} is not the size of a head, {head_dim}, which is not computed here",
                where=str(path),
                cure=f"give a model whose {key(other)} is its head size",
            )
    window = fields.get(key("attention.sliding_window"))
    family: Any = "mistral" if architecture == "llama" and window else architecture
    context = _whole(fields, key("context_length"), path)
    theta = _decimal(fields.get(key("rope.freq_base"), 10_000.0))
    shape = ModelConfig.llama(
        family=family,
        vocab_size=len(needed(fields, "tokenizer.ggml.tokens", path)),
        width=width,
        layers=_whole(fields, key("block_count"), path),
        heads=heads,
        context=context,
        kv_heads=_whole(fields, key("attention.head_count_kv"), path, heads),
        head_dim=head_dim,
        ffn_width=_whole(fields, key("feed_forward_length"), path),
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        tied="output.weight" not in tensors,
        rope_theta=theta,
        norm_eps=_decimal(needed(fields, key("attention.layer_norm_rms_epsilon"), path)),
        rope=_read_scaling(fields, key, context, path),
        window=int(window) if window and family == "mistral" else None,
    )
    return shape if frequencies is None else _with_llama3(shape, frequencies, fields, path)


def _whole(fields: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = fields.get(key, default) if default is not None else needed(fields, key, path)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CheckpointError(
            f"{key} is {value!r}; supported is one whole number for all layers",
            where=str(path),
            cure="give a model whose layers are alike",
        )
    return value


def _decimal(value: float) -> float:
    """A float32 as the decimal number that was meant: 1e-05, not 9.99999975e-06."""
    return float(str(np.float32(value)))


def _read_scaling(fields: Mapping[str, Any], key: Any, context: int, path: Path) -> RopeScaling | None:
    kind = fields.get(key("rope.scaling.type"), "linear")  # llama.cpp takes a factor without a type so
    factor = _decimal(fields.get(key("rope.scaling.factor"), fields.get(key("rope.scale_linear"), 1.0)))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return RopeScaling("linear", factor)
    odd = [
        name
        for name, plain in (("rope.scaling.yarn_log_multiplier", 0.0), ("rope.scaling.yarn_ext_factor", 1.0))
        if float(fields.get(key(name), plain)) != plain
    ]
    if kind != "yarn" or odd:
        raise CheckpointError(
            f"the rotary positions are scaled in a way that is not computed here ({', '.join([kind, *odd])})",
            where=str(path),
            cure="give a model with plain rotary positions, or scaled by linear, yarn or Llama 3.1's rule",
        )
    original = _whole(fields, key("rope.scaling.original_context_length"), path, context)
    times = _decimal(fields.get(key("rope.scaling.attn_factor"), 1.0))
    return RopeScaling(
        "yarn",
        factor,
        original,
        attention_factor=None if times == 1.0 else times * _yarn_temperature(factor),
        beta_fast=_decimal(fields.get(key("rope.scaling.yarn_beta_fast"), 32.0)),
        beta_slow=_decimal(fields.get(key("rope.scaling.yarn_beta_slow"), 1.0)),
    )


def _yarn_temperature(factor: float) -> float:
    """What llama.cpp multiplies cosines and sines by, before `attn_factor`."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _with_llama3(
    shape: ModelConfig, frequencies: Tensor, fields: Mapping[str, Any], path: Path
) -> ModelConfig:
    """The file holds the divisors of Llama 3.1's rule, not the rule; its numbers are always the same."""
    original = int(fields.get("llama.rope.scaling.original_context_length", 8192))
    factor = _decimal(float(frequencies.max()))
    scaled = replace(shape, rope=RopeScaling("llama3", factor, original))
    if shape.rope is None and torch.allclose(divisors(scaled), frequencies, rtol=1e-5, atol=0):
        return scaled
    raise CheckpointError(
        f"{ROPE_FREQUENCIES} is not made by Llama 3.1's rule (factor {factor}, first context {original})",
        where=str(path),
        cure="convert the model's Hugging Face folder instead, whose config.json has the rule",
    )


def divisors(config: ModelConfig) -> Tensor:
    """(d / 2,) what each plain frequency is divided by."""
    return inverse_frequencies(replace(config, rope=None)) / inverse_frequencies(config)


def write_shape(config: ModelConfig) -> dict[str, Any]:
    """Metadata of a model. Raises `ConfigError` for one that llama.cpp computes in another way."""
    architecture = ARCHITECTURES[config.family]
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        # llama.cpp has no window in this architecture: within the window the two are the same.
        "context_length": min(config.context, config.window or config.context),
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.ffn_width,
        "attention.head_count": config.heads,
    }
    if config.family == "gpt2":
        values["attention.layer_norm_epsilon"] = config.norm_eps
        return {f"{architecture}.{name}": value for name, value in values.items()}
    _check_rotary(config, architecture)
    values |= {
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    if config.window is not None and config.family == "mistral":
        values["attention.sliding_window"] = config.window
    values |= _write_scaling(config.rope)
    return {f"{architecture}.{name}": value for name, value in values.items()}


def _check_rotary(config: ModelConfig, architecture: str) -> None:
    wrong = ""
    if architecture == "qwen2" and config.heads * config.head_dim != config.width:
        wrong = f"heads x head_dim that is not the width ({config.heads} x {config.head_dim})"
    elif architecture == "qwen3" and config.attention_bias:
        wrong = "biases in attention"
    elif config.rope is not None and config.rope.kind == "llama3" and architecture != "llama":
        wrong = "rotary positions scaled by Llama 3.1's rule"
    elif config.rope is not None and config.rope.kind == "yarn" and not config.rope.truncate:
        wrong = "YaRN without truncate"
    if wrong:
        raise ConfigError(
            f"llama.cpp's architecture {architecture} has no {wrong}",
            where="--to gguf",
            cure="keep this model as a Hugging Face folder",
        )


def _write_scaling(rope: RopeScaling | None) -> dict[str, Any]:
    """Of kind "dynamic" nothing: it changes nothing within the context, and beyond llama.cpp warns."""
    if rope is None or rope.kind == "dynamic":
        return {}
    if rope.kind == "llama3":  # the divisors are a tensor
        return {"rope.scaling.original_context_length": rope.original_context}
    values: dict[str, Any] = {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.factor}
    if rope.kind == "linear":
        return values
    values |= {
        "rope.scaling.original_context_length": rope.original_context,
        "rope.scaling.yarn_beta_fast": rope.beta_fast,
        "rope.scaling.yarn_beta_slow": rope.beta_slow,
    }
    times = attention_scale(rope) / _yarn_temperature(rope.factor)
    return values if times == 1.0 else values | {"rope.scaling.attn_factor": times}
