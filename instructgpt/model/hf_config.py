"""`config.json` of Hugging Face transformers <-> `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig
from instructgpt.model.names import Head

_ARCHITECTURES: dict[tuple[str, Head], str] = {
    ("gpt2", "language"): "GPT2LMHeadModel",
    ("gpt2", "scalar"): "GPT2ForSequenceClassification",
    ("llama", "language"): "LlamaForCausalLM",
    ("llama", "scalar"): "LlamaForSequenceClassification",
}
# Settings that change the computation, with the values that we compute. Anything else would load and then
# quietly give other numbers.
_ACCEPTED: dict[str, dict[str, tuple[object, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    "llama": {"hidden_act": ("silu", "swish"), "quantization_config": (None,)},
}


def model_config_from_hf(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Read the parsed config.json of a GPT-2 or Llama checkpoint.

    Absent keys take the defaults of transformers. Raises `CheckpointError` for another architecture, a
    missing size, or a setting that we don't compute (for example scaled rotary positions).
    """
    family = values.get("model_type")
    if family not in _ACCEPTED:
        raise CheckpointError(
            f"model_type is {family!r}; only GPT-2 and Llama checkpoints can be opened",
            where=where,
            cure='give a folder whose config.json says "model_type": "gpt2" or "llama"',
        )
    for name, accepted in _ACCEPTED[family].items():
        if values.get(name, accepted[0]) not in accepted:
            raise CheckpointError(
                f"{name} is {values[name]!r}, which this {family} model does not compute",
                where=where,
                cure=f"use a checkpoint with {name} = {accepted[0]!r}",
            )
    try:
        return _gpt2_config(values) if family == "gpt2" else _llama_config(values, where)
    except KeyError as error:
        raise CheckpointError(
            f"{error.args[0]} is missing",
            where=where,
            cure="copy the checkpoint again, its config is incomplete",
        ) from error
    except ConfigError as error:
        raise CheckpointError(
            f"the sizes do not make a model: {error.what}", where=where, cure="copy the checkpoint again"
        ) from error


def _gpt2_config(values: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig.gpt2(
        vocab_size=values["vocab_size"],
        width=values["n_embd"],
        layers=values["n_layer"],
        heads=values["n_head"],
        context=values.get("n_positions", 1024),
        ffn_width=values.get("n_inner"),
        tied=values.get("tie_word_embeddings", True),
        norm_eps=values.get("layer_norm_epsilon", 1e-5),
    )


def _llama_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    # transformers 5 writes rope_parameters; version 4 wrote rope_theta and rope_scaling.
    rope = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"rotary positions of type {kind!r} are not computed here",
            where=where,
            cure="use a checkpoint with plain rotary positions (rope_type default)",
        )
    return ModelConfig.llama(
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        context=values.get("max_position_embeddings", 2048),
        kv_heads=values.get("num_key_value_heads"),
        head_dim=values.get("head_dim"),
        ffn_width=values["intermediate_size"],
        attention_bias=values.get("attention_bias", False),
        mlp_bias=values.get("mlp_bias", False),
        tied=values.get("tie_word_embeddings", False),
        rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        norm_eps=values.get("rms_norm_eps", 1e-6),
    )


def model_config_to_hf(config: ModelConfig, head: Head, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that transformers (4 and 5) opens; token ids are the caller's to add."""
    common: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[config.family, head]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied,
        "dtype": dtype,
        "torch_dtype": dtype,  # the name that transformers 4 reads
        "initializer_range": 0.02,
        "use_cache": True,
    }
    if head == "scalar":
        common |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if config.family == "gpt2":
        return common | {
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_positions": config.context,
            "n_inner": config.ffn_width,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_eps,
            # The library's own default is 0.1: training the folder elsewhere should give what we train.
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
    return common | {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rms_norm_eps": config.norm_eps,
    }
