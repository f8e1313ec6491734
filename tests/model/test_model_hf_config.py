"""config.json of the families: both generations of its format, and what is refused."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, MistralConfig, Qwen2Config, Qwen3Config

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.hf_config import model_config_from_hf, model_config_to_hf

LLAMA = {
    "model_type": "llama",
    "vocab_size": 9,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
QWEN = LLAMA | {"model_type": "qwen2"}
LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("written", "theta", "rope"),
    [
        ({"rope_theta": 777.0, "rope_scaling": None}, 777.0, None),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
            5e5,
            RopeScaling("linear", 2.0),
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            5e5,
            RopeScaling("llama3", 32.0, 8192),
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 10.0}},
            10.0,
            RopeScaling("dynamic", 3.0),
        ),
        # Without it, the context is the one that the model was first trained on.
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 1e4, RopeScaling("yarn", 4.0, 64)),
        # Without a factor it is 64 / 16; a null is as good as nothing.
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": None,
                    "original_max_position_embeddings": 16,
                    "beta_fast": None,
                }
            },
            1e4,
            RopeScaling("yarn", 4.0, 16),
        ),
    ],
)
def test_rotary_positions_of_both_generations(written, theta, rope):
    config = model_config_from_hf(LLAMA | written)
    assert (config.rope_theta, config.rope) == (theta, rope)
    assert model_config_from_hf(model_config_to_hf(config, "language")) == config


@pytest.mark.parametrize(
    "rope",
    [
        RopeScaling("linear", 2.0),
        RopeScaling("dynamic", 2.0),
        RopeScaling("llama3", 8.0, 32, low_freq_factor=2.0, high_freq_factor=3.0),
        RopeScaling("yarn", 4.0, 16, attention_factor=1.5, beta_fast=16.0, beta_slow=2.0, truncate=False),
        RopeScaling("yarn", 4.0, 16, mscale=0.7, mscale_all_dim=0.9),
    ],
    ids=lambda rope: rope.kind,
)
def test_transformers_reads_the_scaling_that_we_write(rope, tmp_path, caplog):
    """Every key arrives, and none is unknown to it (it warns of those)."""
    config = ModelConfig.llama(
        vocab_size=9, width=32, layers=1, heads=4, context=64, rope_theta=500.0, rope=rope
    )
    values = model_config_to_hf(config, "language")
    theirs = AutoConfig.for_model(**values)
    assert theirs.rope_parameters == values["rope_parameters"]
    assert theirs.rope_parameters["rope_theta"] == 500.0
    assert not [record for record in caplog.records if "Unrecognized" in record.message]
    assert model_config_from_hf(theirs.to_dict()) == config


@pytest.mark.parametrize(
    ("family", "default"), [("mistral", MistralConfig()), ("qwen2", Qwen2Config()), ("qwen3", Qwen3Config())]
)
def test_absent_keys_take_the_defaults_of_transformers(family, default):
    sizes = LLAMA | {"model_type": family, "hidden_size": 4096, "num_attention_heads": 32}
    del sizes["max_position_embeddings"]
    config = model_config_from_hf(sizes)
    assert config.context == default.max_position_embeddings
    assert config.kv_heads == default.num_key_value_heads
    assert config.head_dim == getattr(default, "head_dim", 4096 // 32)
    assert config.norm_eps == default.rms_norm_eps
    assert config.window == default.sliding_window
    assert config.tied == default.tie_word_embeddings
    assert config.rope_theta == default.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("written", "window"),
    [
        ({}, None),
        ({"use_sliding_window": False, "sliding_window": 16}, None),
        ({"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}, None),
        ({"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, 16),
        ({"layer_types": ["full_attention"] * 3, "use_sliding_window": True, "sliding_window": 16}, None),
        ({"layer_types": ["sliding_attention"] * 3, "use_sliding_window": True, "sliding_window": 16}, 16),
        ({"layer_types": ["sliding_attention"] * 3, "sliding_window": 16}, None),
    ],
)
def test_one_window_for_all_of_qwens_layers(written, window):
    config = model_config_from_hf(QWEN | {"num_key_value_heads": 2} | written)
    assert config.window == window
    again = model_config_to_hf(config, "language")
    assert model_config_from_hf(again) == config
    theirs = AutoConfig.for_model(**again)
    assert theirs.sliding_window == window and len(set(theirs.layer_types)) == 1


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
            ["max_window_layers = 2", "sliding_window = 16", "all layers"],
        ),
        (
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 8},
            ["layer_types", "all layers"],
        ),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, ["'longrope'", "linear", "llama3"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["factor is 0"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["full_attention"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor", "0.5"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "'gelu'"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
    ],
)
def test_what_a_family_does_not_compute_is_refused(written, words):
    with pytest.raises(CheckpointError) as caught:
        model_config_from_hf(QWEN | {"num_key_value_heads": 2} | written, where="some/config.json")
    for word in [*words, "some/config.json", "To mend it"]:
        assert word in str(caught.value)


def test_a_foreign_architecture_says_what_is_supported_and_what_differs():
    """The keys of a Gemma 2 configuration that none of the families has."""
    gemma = LLAMA | {
        "model_type": "gemma2",
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": None,
        "transformers_version": "4.42.4",
        "eos_token_id": 1,
    }
    with pytest.raises(CheckpointError) as caught:
        model_config_from_hf(gemma)
    message = str(caught.value)
    for word in ("'gemma2'", "GPT-2", "Llama", "SmolLM2", "TinyLlama", "Mistral", "Qwen 2.5", "Qwen 3"):
        assert word in message
    assert "do not have: final_logit_softcapping = 30.0, query_pre_attn_scalar = 256 (config.json)" in message
    assert "transformers_version" not in message and "eos_token_id" not in message


def test_families_hold_their_switches():
    sizes = {"vocab_size": 9, "width": 32, "layers": 1, "heads": 4, "context": 16}
    for wrong, word in (
        ({"window": 4}, "window"),
        ({"family": "qwen2"}, "attention_bias"),
        ({"family": "mistral", "attention_bias": True}, "attention_bias"),
        ({"family": "qwen3", "mlp_bias": True}, "mlp_bias"),
        ({"family": "mistral", "window": 0}, "window"),
        ({"heads": 16, "rope": RopeScaling("dynamic", 2.0)}, "head_dim"),
        ({"family": "bert"}, "qwen3"),
    ):
        with pytest.raises(ConfigError, match=word):
            ModelConfig.llama(**sizes | wrong)
    for wrong in (
        {"kind": "ntk"},
        {"factor": 0.0},
        {"kind": "yarn"},
        {"kind": "llama3", "high_freq_factor": 1.0},
    ):
        with pytest.raises(ConfigError):
            RopeScaling(**{"kind": "linear", "factor": 2.0} | wrong)
