"""The one table of names between our modules and Hugging Face checkpoints, read both ways by `hf.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from instructgpt.model.config import ModelConfig

Head = Literal["language", "scalar"]


@dataclass(frozen=True)
class Entry:
    """One of our tensors and the checkpoint tensors whose rows, one behind the other, make it."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]
    """Rows of each of `theirs`, in our orientation."""
    columns: int | None = None
    """None for a vector."""
    transposed: bool = False
    """GPT-2 stores its layers' matrices (in, out): `Conv1D` instead of `Linear`."""

    def stored_shape(self, part: int) -> tuple[int, ...]:
        """Shape of `theirs[part]` in the file."""
        if self.columns is None:
            return (self.rows[part],)
        shape = (self.rows[part], self.columns)
        return shape[::-1] if self.transposed else shape

    def join(self, stored: Mapping[str, Tensor]) -> Tensor:
        """Checkpoint tensors -> ours."""
        parts = [stored[name].T if self.transposed else stored[name] for name in self.theirs]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Ours -> checkpoint tensors, contiguous."""
        parts = tensor.split(self.rows)
        return {
            name: (part.T if self.transposed else part).contiguous()
            for name, part in zip(self.theirs, parts, strict=True)
        }


def body_prefix(config: ModelConfig) -> str:
    """What stands before the body's names in a checkpoint with a head."""
    return "transformer." if config.family == "gpt2" else "model."


def name_table(config: ModelConfig, head: Head) -> list[Entry]:
    """Every tensor of a model of this shape; a tied head has no entry."""
    entries = _gpt2_body(config) if config.family == "gpt2" else _llama_body(config)
    if head == "scalar":
        entries.append(Entry("head.weight", ("score.weight",), (1,), config.width))
    elif not config.tied:
        entries.append(Entry("head.weight", ("lm_head.weight",), (config.vocab_size,), config.width))
    return entries


def _gpt2_body(config: ModelConfig) -> list[Entry]:
    width, ffn = config.width, config.ffn_width
    entries = [
        Entry("transformer.embedding.weight", ("transformer.wte.weight",), (config.vocab_size,), width),
        Entry("transformer.position_embedding.weight", ("transformer.wpe.weight",), (config.context,), width),
    ]
    for i in range(config.layers):
        ours, theirs = f"transformer.blocks.{i}.", f"transformer.h.{i}."
        for mine, other, rows, columns in (
            ("attention.qkv", "attn.c_attn", 3 * width, width),
            ("attention.output", "attn.c_proj", width, width),
            ("feed.up", "mlp.c_fc", ffn, width),
            ("feed.down", "mlp.c_proj", width, ffn),
        ):
            weight = (f"{theirs}{other}.weight",)
            entries.append(Entry(f"{ours}{mine}.weight", weight, (rows,), columns, transposed=True))
            entries.append(Entry(f"{ours}{mine}.bias", (f"{theirs}{other}.bias",), (rows,)))
        for mine, other in (("attention_norm", "ln_1"), ("feed_norm", "ln_2")):
            for kind in ("weight", "bias"):
                entries.append(Entry(f"{ours}{mine}.{kind}", (f"{theirs}{other}.{kind}",), (width,)))
    for kind in ("weight", "bias"):
        entries.append(Entry(f"transformer.final_norm.{kind}", (f"transformer.ln_f.{kind}",), (width,)))
    return entries


def _llama_body(config: ModelConfig) -> list[Entry]:
    width, ffn = config.width, config.ffn_width
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    entries = [
        Entry("transformer.embedding.weight", ("model.embed_tokens.weight",), (config.vocab_size,), width)
    ]
    for i in range(config.layers):
        ours, theirs = f"transformer.blocks.{i}.", f"model.layers.{i}."
        attention, feed = config.attention_bias, config.mlp_bias
        if config.qk_norm:
            for mine in ("query_norm", "key_norm"):
                other = f"{theirs}self_attn.{mine[0]}_norm.weight"
                entries.append(Entry(f"{ours}attention.{mine}.weight", (other,), (config.head_dim,)))
        for mine, others, rows, columns, bias in (
            (
                "attention.qkv",
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                (query, key, key),
                width,
                attention,
            ),
            ("attention.output", ("self_attn.o_proj",), (width,), query, config.output_bias),
            ("feed.up", ("mlp.gate_proj", "mlp.up_proj"), (ffn, ffn), width, feed),
            ("feed.down", ("mlp.down_proj",), (width,), ffn, feed),
        ):
            weights = tuple(f"{theirs}{other}.weight" for other in others)
            entries.append(Entry(f"{ours}{mine}.weight", weights, rows, columns))
            if bias:
                biases = tuple(f"{theirs}{other}.bias" for other in others)
                entries.append(Entry(f"{ours}{mine}.bias", biases, rows))
        for mine, other in (
            ("attention_norm", "input_layernorm"),
            ("feed_norm", "post_attention_layernorm"),
        ):
            entries.append(Entry(f"{ours}{mine}.weight", (f"{theirs}{other}.weight",), (width,)))
    entries.append(Entry("transformer.final_norm.weight", ("model.norm.weight",), (width,)))
    return entries
