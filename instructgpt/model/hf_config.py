"""`config.json` of Hugging Face transformers <-> `ModelConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import Family, ModelConfig, RopeScaling
from instructgpt.model.names import Head

SUPPORTED = "GPT-2, Llama (also SmolLM2, TinyLlama), Mistral, Qwen 2, Qwen 2.5 and Qwen 3"
_CLASSES: dict[str, str] = {
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
_HEADS: dict[Head, str] = {"language": "ForCausalLM", "scalar": "ForSequenceClassification"}
# Settings that change the computation, with the values that we compute. Anything else would load and then
# quietly give other numbers.
_GATED: dict[str, tuple[object, ...]] = {"hidden_act": ("silu", "swish"), "quantization_config": (None,)}
_ACCEPTED: dict[str, dict[str, tuple[object, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    "llama": _GATED | {"partial_rotary_factor": (1.0, None)},
    "mistral": _GATED | {"partial_rotary_factor": (1.0, None)},
    "qwen2": _GATED | {"partial_rotary_factor": (1.0, None)},
    "qwen3": _GATED | {"partial_rotary_factor": (1.0, None)},
}
# Where transformers' defaults of keys that a file may leave out differ between the families.
_CONTEXT = {"llama": 2048, "mistral": 131072, "qwen2": 32768, "qwen3": 32768}
_KV_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
_WINDOW = 4096
_HEAD_DIM_QWEN3 = 128
# Keys that say nothing about the computation.
_NEUTRAL = {
    "_name_or_path",
    "auto_map",
    "bos_token_id",
    "eos_token_id",
    "n_ctx",
    "pad_token_id",
    "pretraining_tp",
    "transformers_version",
}


def model_config_from_hf(values: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Read the parsed config.json of a checkpoint of one of the families, as transformers 4 or 5 wrote it.

    Absent keys take the defaults of transformers. Raises `CheckpointError` for another architecture, a
    missing size, or a setting that we don't compute (say a window in some of the layers only).
    """
    family = values.get("model_type")
    if family not in _ACCEPTED:
        raise _foreign(values, where)
    for name, accepted in _ACCEPTED[family].items():
        if values.get(name, accepted[0]) not in accepted:
            raise CheckpointError(
                f"{name} is {values[name]!r}, which this {family} model does not compute",
                where=where,
                cure=f"use a checkpoint with {name} = {accepted[0]!r}",
            )
    try:
        return _gpt2_config(values) if family == "gpt2" else _llama_config(family, values, where)
    except KeyError as error:
        raise CheckpointError(
            f"{error.args[0]} is missing",
            where=where,
            cure="copy the checkpoint again, its config is incomplete",
        ) from error
    except ConfigError as error:
        raise CheckpointError(
            f"this does not make a {family} model: {error.what}",
            where=f"{where}, {error.where}",
            cure=error.cure,
        ) from error


def _foreign(values: Mapping[str, Any], where: str) -> CheckpointError:
    """Names what is supported and which of this configuration's keys it does not know."""
    what = f"model_type is {values.get('model_type')!r}; supported are {SUPPORTED}"
    known = _known_keys()
    unknown = sorted(name for name, value in values.items() if name not in known and value is not None)
    if unknown:
        shown = ", ".join(f"{name} = {_short(values[name])}" for name in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        what += f". Its config.json has keys that those do not have: {shown}{more}"
    named = ", ".join(f'"{family}"' for family in _ACCEPTED)
    return CheckpointError(what, where=where, cure=f"give a folder whose config.json has model_type {named}")


def _known_keys() -> set[str]:
    """What we write for some family, and what says nothing about the computation."""
    sizes: dict[str, Any] = {"vocab_size": 1, "width": 4, "layers": 1, "heads": 1, "context": 1}
    shapes = (
        ModelConfig.gpt2(**sizes),
        ModelConfig.llama(**sizes, rope=RopeScaling("linear", 2.0)),
        ModelConfig.llama(**sizes, family="qwen3"),
    )
    return _NEUTRAL.union(*(model_config_to_hf(shape, "scalar") for shape in shapes))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


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


def _llama_config(family: Family, values: Mapping[str, Any], where: str) -> ModelConfig:
    context = values.get("max_position_embeddings", _CONTEXT[family])
    theta, rope = _rope(values, context, where)
    head_dim = values.get("head_dim", _HEAD_DIM_QWEN3 if family == "qwen3" else None)
    return ModelConfig.llama(
        family=family,
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        context=context,
        kv_heads=values.get("num_key_value_heads", _KV_HEADS[family]),
        head_dim=head_dim,
        ffn_width=values["intermediate_size"],
        # Mistral and Qwen 2 do not read these two keys; Qwen 3 reads the first.
        attention_bias=family == "qwen2" or (family != "mistral" and values.get("attention_bias", False)),
        mlp_bias=family == "llama" and values.get("mlp_bias", False),
        tied=values.get("tie_word_embeddings", False),
        rope_theta=theta,
        norm_eps=values.get("rms_norm_eps", 1e-6),
        rope=rope,
        window=_window(family, values, where),
    )


def _window(family: Family, values: Mapping[str, Any], where: str) -> int | None:
    """The window of all layers, or None; Qwen's configurations can give one to some layers only."""
    if family == "llama":
        return None
    window: int | None = values.get("sliding_window", _WINDOW)
    if family == "mistral":
        return window
    layers = values["num_hidden_layers"]
    if not values.get("use_sliding_window", False):
        window = None
    kinds = values.get("layer_types")
    if kinds is None:
        whole = values.get("max_window_layers", 28)
        kinds = [
            "full_attention" if window is None or i < whole else "sliding_attention" for i in range(layers)
        ]
    if all(kind == "full_attention" for kind in kinds):
        return None
    # transformers gives a sliding layer without a window the whole context.
    if all(kind == "sliding_attention" for kind in kinds):
        return window
    keys = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
    shown = ", ".join(f"{key} = {_short(values[key])}" for key in keys if key in values)
    raise CheckpointError(
        f"the layers attend differently ({shown}); supported is full attention, or one window, in all layers",
        where=where,
        cure="use a checkpoint with use_sliding_window = false",
    )


def _rope(values: Mapping[str, Any], context: int, where: str) -> tuple[float, RopeScaling | None]:
    """Base and scaling: transformers 5 writes rope_parameters, 4 wrote rope_theta and rope_scaling."""
    found = {**(values.get("rope_parameters") or {}), **(values.get("rope_scaling") or {})}
    if any(isinstance(value, Mapping) for value in found.values()):
        raise CheckpointError(
            f"rotary positions differ between the kinds of layers ({', '.join(sorted(found))})",
            where=where,
            cure="use a checkpoint with the same rotary positions in all layers",
        )
    if found.get("partial_rotary_factor") not in (None, 1.0):
        raise CheckpointError(
            f"partial_rotary_factor is {found['partial_rotary_factor']!r}; whole heads are turned here",
            where=where,
            cure="use a checkpoint whose rotary positions turn whole heads",
        )
    theta = float(found.get("rope_theta") or values.get("rope_theta") or 10_000.0)
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "default":
        return theta, None
    # A file may keep the first context beside the sizes; transformers then prefers it.
    original = values.get("original_max_position_embeddings") or found.get("original_max_position_embeddings")
    original = int(original or context)
    numbers = (
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "beta_fast",
        "beta_slow",
        "truncate",
        "low_freq_factor",
        "high_freq_factor",
    )
    factor = found["factor"]
    if factor is None and kind == "yarn":
        factor = context / original
    scaled = kind in ("yarn", "llama3")
    further = {name: found[name] for name in numbers if scaled and found.get(name) is not None}
    return theta, RopeScaling(kind, float(factor), original if scaled else 0, **further)


def model_config_to_hf(config: ModelConfig, head: Head, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that transformers (4 and 5) opens; token ids are the caller's to add."""
    suffix = "LMHeadModel" if (config.family, head) == ("gpt2", "language") else _HEADS[head]
    common: dict[str, Any] = {
        "architectures": [_CLASSES[config.family] + suffix],
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
    common |= {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_theta": config.rope_theta, **_rope_to_hf(config.rope)},
        "rms_norm_eps": config.norm_eps,
    }
    if config.rope is not None:
        common["rope_scaling"] = _rope_to_hf(config.rope)
    if config.family in ("llama", "qwen3"):
        common["attention_bias"] = config.attention_bias
    if config.family == "llama":
        common["mlp_bias"] = config.mlp_bias
    return common | _window_to_hf(config)


def _rope_to_hf(rope: RopeScaling | None) -> dict[str, Any]:
    if rope is None:
        return {"rope_type": "default"}
    values: dict[str, Any] = {"rope_type": rope.kind, "factor": rope.factor}
    if rope.kind in ("yarn", "llama3"):
        values["original_max_position_embeddings"] = rope.original_context
    names: tuple[str, ...] = ()
    if rope.kind == "llama3":
        names = ("low_freq_factor", "high_freq_factor")
    elif rope.kind == "yarn":
        names = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow", "truncate")
    found = {name: getattr(rope, name) for name in names}
    return values | {name: value for name, value in found.items() if value is not None}


def _window_to_hf(config: ModelConfig) -> dict[str, Any]:
    if config.family == "mistral":
        return {"sliding_window": config.window}
    if config.family == "llama":
        return {}
    kind = "full_attention" if config.window is None else "sliding_attention"
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": config.layers if config.window is None else 0,
        "layer_types": [kind] * config.layers,
    }
