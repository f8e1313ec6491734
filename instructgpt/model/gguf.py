"""Import of GGUF files (the format of llama.cpp): llama architecture, byte-level BPE tokenizer.

Reads F32, F16, Q8_0, Q4_0 and Q4_1 tensors; the numbers are those that the quantised file stands for.
Needs the `gguf` extra.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel
from instructgpt.model.hf import fill, save_model

_READABLE = ("F32", "F16", "Q8_0", "Q4_0", "Q4_1")
_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Kinds of tokens in tokenizer.ggml.token_type.
_CONTROL, _USER_DEFINED = 3, 4
# How tokenizer.ggml.pre splits text before the merges. A wrong one gives other ids without any error, so a
# name that is not here is refused.
_PRE_TOKENIZERS: dict[str, tuple[pre_tokenizers.PreTokenizer, ...]] = {
    "gpt-2": (),
    "smollm": (pre_tokenizers.Digits(individual_digits=True),),
}


def import_gguf(path: str | Path, out_folder: str | Path, dtype: torch.dtype = torch.float32) -> ModelConfig:
    """Write the model and tokenizer of a GGUF file as a complete Hugging Face folder; returns its shape.

    dtype: of the weights written; float32 keeps the dequantised numbers exactly.
    Raises `ConfigError` without the `gguf` package, `CheckpointError` for a file that is damaged or of
    another architecture, tensor type or tokenizer than those named above.
    """
    path, out_folder = Path(path), Path(out_folder)
    reader = _open(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    config = _model_config(fields, {tensor.name for tensor in reader.tensors}, path)
    with torch.device("meta"):
        model = LanguageModel(config)
    fill(model, _tensors(reader, config, path, dtype), path)
    tokenizer = _tokenizer(fields, path)
    special = {
        f"{name}_token_id": fields.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    save_model(model, out_folder, special=special)
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


def _need(fields: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in fields:
        raise CheckpointError(
            f"the metadata has no {key}", where=str(path), cure="convert the model to GGUF again"
        )
    return fields[key]


def _model_config(fields: Mapping[str, Any], tensors: set[str], path: Path) -> ModelConfig:
    architecture = _need(fields, "general.architecture", path)
    if architecture != "llama":
        raise CheckpointError(
            f"architecture is {architecture!r}; only 'llama' can be imported",
            where=str(path),
            cure="give the GGUF file of a Llama-family model",
        )
    scaling = fields.get("llama.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in tensors:
        raise CheckpointError(
            "the rotary positions are scaled, which is not computed here",
            where=str(path),
            cure="give a model with plain rotary positions",
        )
    if fields.get("llama.expert_count", 0):
        raise CheckpointError(
            "this is a mixture of experts", where=str(path), cure="give a dense Llama-family model"
        )
    heads = int(_need(fields, "llama.attention.head_count", path))
    width = int(_need(fields, "llama.embedding_length", path))
    head_dim = int(fields.get("llama.attention.key_length", width // heads))
    if int(fields.get("llama.rope.dimension_count", head_dim)) != head_dim:
        raise CheckpointError(
            "only a part of each head is turned by its position, which is not computed here",
            where=str(path),
            cure="give a model whose llama.rope.dimension_count is its head size",
        )
    try:
        return ModelConfig.llama(
            vocab_size=len(_need(fields, "tokenizer.ggml.tokens", path)),
            width=width,
            layers=int(_need(fields, "llama.block_count", path)),
            heads=heads,
            context=int(_need(fields, "llama.context_length", path)),
            kv_heads=int(fields.get("llama.attention.head_count_kv", heads)),
            head_dim=head_dim,
            ffn_width=int(_need(fields, "llama.feed_forward_length", path)),
            attention_bias="blk.0.attn_output.bias" in tensors,
            mlp_bias="blk.0.ffn_down.bias" in tensors,
            tied="output.weight" not in tensors,
            rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
            norm_eps=float(_need(fields, "llama.attention.layer_norm_rms_epsilon", path)),
        )
    except ConfigError as error:
        raise CheckpointError(
            f"the sizes do not make a model: {error.what}", where=str(path), cure="copy the file again"
        ) from error


def _tensors(reader: Any, config: ModelConfig, path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Dequantised tensors under their Hugging Face names; an unknown name stays, and is refused by `fill`."""
    from gguf.quants import dequantize

    found: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name
        if kind not in _READABLE:
            raise CheckpointError(
                f"tensor {tensor.name} is stored as {kind}; {', '.join(_READABLE)} can be read",
                where=str(path),
                cure="give a file quantised as one of these, for example the Q8_0 or F16 one",
            )
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        name = _hf_name(tensor.name)
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            weight = _halves(weight, config.heads)
        elif name.endswith(("k_proj.weight", "k_proj.bias")):
            weight = _halves(weight, config.kv_heads)
        found[name] = weight.to(dtype)
    return found


def _hf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _TENSORS:
        return f"{_TENSORS[stem]}.{kind}"
    block, layer, part = [*stem.split("."), "", ""][:3]
    if block == "blk" and part in _LAYER_TENSORS:
        return f"model.layers.{layer}.{_LAYER_TENSORS[part]}.{kind}"
    return name


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Each head's rows from llama.cpp's rotary layout (neighbours are pairs) to Hugging Face's (halves)."""
    size = rows.shape[0] // heads
    pairs = rows.view(heads, size // 2, 2, -1)
    return pairs.transpose(1, 2).reshape(rows.shape)


def _tokenizer(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer in the metadata, as the `tokenizers` library writes it."""
    kind = _need(fields, "tokenizer.ggml.model", path)
    if kind != "gpt2":
        raise CheckpointError(
            f"the tokenizer is of kind {kind!r}; only byte-level BPE ('gpt2') can be imported",
            where=str(path),
            cure="give a model with a byte-level BPE tokenizer",
        )
    split = fields.get("tokenizer.ggml.pre", "gpt-2")
    if split not in _PRE_TOKENIZERS:
        raise CheckpointError(
            f"the tokenizer splits text by the rule {split!r}; known are {', '.join(_PRE_TOKENIZERS)}",
            where=str(path),
            cure="convert the model's Hugging Face folder instead, whose tokenizer.json carries the rule",
        )
    tokens: list[str] = _need(fields, "tokenizer.ggml.tokens", path)
    merges = [tuple(merge.split(" ", 1)) for merge in _need(fields, "tokenizer.ggml.merges", path)]
    prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", False))
    try:
        model = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"vocabulary and merges do not fit: {error}", where=str(path), cure="copy the file again"
        ) from error
    tokenizer = Tokenizer(model)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    rules = _PRE_TOKENIZERS[split]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*rules, byte_level]) if rules else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    types = fields.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    for token, token_type in zip(tokens, types, strict=False):
        if token_type == _CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif token_type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    bos = fields.get("tokenizer.ggml.bos_token_id")
    if fields.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        # Only for other programs: our own rendering never adds a token beside the template's.
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


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
