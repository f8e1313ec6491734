"""Against transformers, both ways: logits, gradients, greedy text, files; and the refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
)

from benchmarks.parity import (
    MODELS,
    SPECIAL,
    VOCAB,
    documents,
    gradients_in_their_names,
    greedy_text,
    packed,
    their_greedy_text,
)
from instructgpt.errors import CheckpointError, StorageError
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import load_language_model, load_scalar_model, model_config_from_hf, save_model

KINDS = pytest.mark.parametrize("kind", MODELS)
FEW = pytest.mark.parametrize("kind", ["GPT-2", "Llama, biases", "Mistral", "Qwen 2.5", "Qwen 3, window"])


def llama(seed):
    return MODELS["Llama, TinyLlama"][1](seed)


def pair(kind, seed, folder):
    theirs = MODELS[kind][1](seed)
    return theirs, load_saved(theirs, folder)


def load_saved(theirs, folder):
    theirs.save_pretrained(folder)
    return load_language_model(folder)


def check_logits_and_gradients(kind, seed, folder):
    theirs, ours = pair(kind, seed, folder)
    rows = documents([9, 70, 1, 12, 80], seed)
    expected = torch.cat([theirs(row[None]).logits[0] for row in rows])
    got = ours.logits(ours(*packed(rows)))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)

    targets = torch.cat(documents([172], seed + 9))
    torch.nn.functional.cross_entropy(got, targets).backward()
    torch.nn.functional.cross_entropy(expected, targets).backward()
    gradients = gradients_in_their_names(ours)
    named = {name: p.grad for name, p in theirs.named_parameters()}
    assert set(gradients) == set(named)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, named[name], atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@KINDS
def test_logits_and_gradients_equal_transformers(kind, tmp_path):
    """Field fault 8: the packed ragged batch gives what transformers gives for each row alone."""
    check_logits_and_gradients(kind, 0, tmp_path)


@FEW
@pytest.mark.parametrize("seed", [1, 2])
def test_logits_and_gradients_equal_transformers_for_other_weights(kind, seed, tmp_path):
    check_logits_and_gradients(kind, seed, tmp_path)


@KINDS
def test_greedy_text_equals_transformers(kind, tmp_path):
    theirs, ours = pair(kind, 3, tmp_path)
    rows = documents([5, 11, 2], 3)
    assert greedy_text(ours, rows) == their_greedy_text(theirs, rows)


@KINDS
def test_round_trip_is_bit_exact(kind, tmp_path):
    theirs, ours = pair(kind, 4, tmp_path / "theirs")
    save_model(ours, tmp_path / "ours", special=SPECIAL)
    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_language_model(tmp_path / "ours").config == ours.config

    opened, info = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(opened) is type(theirs)
    assert not any(info.values()), info
    ids = documents([20], 4)[0]
    assert torch.equal(opened(ids[None]).logits, theirs(ids[None]).logits)
    assert opened.generation_config.eos_token_id == 2 and opened.config.pad_token_id == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files(dtype, tmp_path):
    """A bfloat16 or float16 file loads in float32 with the same values, and can stay as it is."""
    theirs = llama(0).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    wide, narrow = load_language_model(tmp_path / "theirs"), load_language_model(tmp_path / "theirs", dtype)
    assert wide.unembedding.dtype == torch.float32
    assert torch.equal(wide.unembedding, stored["lm_head.weight"].float())
    save_model(narrow, tmp_path / "ours")
    again = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == dtype


SMALL = {"vocab_size": VOCAB, "width": 32, "layers": 2, "heads": 4, "context": 64}


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig.gpt2(**SMALL),
        ModelConfig.llama(**SMALL, kv_heads=2),
        ModelConfig.llama(**SMALL, family="mistral", window=8),
        ModelConfig.llama(**SMALL, family="qwen2", attention_bias=True, rope=RopeScaling("linear", 2.0)),
        ModelConfig.llama(**SMALL, family="qwen3", kv_heads=2, window=8),
    ],
    ids=lambda config: config.family,
)
def test_reward_model_opens_as_sequence_classification(config, tmp_path):
    """Scores are those of the last token; transformers' lack only the bias (units: reward)."""
    model = new_scalar_model(config, seed=5)
    model.reward_bias.fill_(0.5)
    save_model(model, tmp_path, special=SPECIAL)
    theirs, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    rows = documents([7, 30, 1], 5)
    last = torch.tensor([7, 30, 1]).cumsum(0) - 1
    with torch.no_grad():
        ours = model.score(model(*packed(rows))[last])
        expected = torch.cat([theirs(row[None]).logits[0] for row in rows])
    torch.testing.assert_close(ours, expected - 0.5, atol=1e-5, rtol=1e-4)
    again = load_scalar_model(tmp_path)
    assert float(again.reward_bias) == 0.5
    with torch.no_grad():
        assert torch.equal(again.score(again(*packed(rows))[last]), ours)


def test_our_own_model_opens_in_transformers_and_learns_on(tmp_path):
    model = new_language_model(
        ModelConfig.llama(vocab_size=VOCAB, width=32, layers=1, heads=2, context=32), 0
    )
    save_model(model, tmp_path, special=SPECIAL, extra={"made_by": "a test"})
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.made_by == "a test"
    loaded = load_language_model(tmp_path)
    loaded.logits(loaded(*packed(documents([5], 0)))).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_sharded_and_bare_folders(tmp_path):
    """Weights in parts with an index; a bare GPT-2 body with old buffers and its tied head written twice."""
    theirs = MODELS["GPT-2"][1](0)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert (tmp_path / "parts" / "model.safetensors.index.json").is_file()
    weights = {n.removeprefix("transformer."): t.clone() for n, t in theirs.state_dict().items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    shutil.copytree(tmp_path / "parts", tmp_path / "bare", ignore=shutil.ignore_patterns("model*"))
    save_file({n: t.contiguous() for n, t in weights.items()}, tmp_path / "bare" / "model.safetensors")
    ids = documents([9], 0)[0]
    for name in ("parts", "bare"):
        ours = load_language_model(tmp_path / name)
        torch.testing.assert_close(
            ours.logits(ours(*packed([ids]))), theirs(ids[None]).logits[0], atol=1e-4, rtol=1e-4
        )


def test_large_weights_are_written_in_parts(tmp_path):
    """At most 40,000 bytes a file (one tensor is never cut); both programs put them together again."""
    model = load_saved(llama(0), tmp_path / "theirs")
    save_model(model, tmp_path / "parts", special=SPECIAL, shard_bytes=40_000)
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert [path.name for path in parts] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    held = [sum(tensor.nbytes for tensor in load_file(path).values()) for path in parts]
    assert max(held) <= 40_000
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(held) == sum(p.numel() for p in model.parameters()) * 4
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "parts" / file)
    again = load_language_model(tmp_path / "parts")
    for (name, left), right in zip(again.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right), name
    opened, info = AutoModelForCausalLM.from_pretrained(tmp_path / "parts", output_loading_info=True)
    assert not any(info.values()), info
    assert all(torch.equal(p, q) for p, q in zip(opened.parameters(), llama(0).parameters(), strict=True))


@pytest.fixture
def folder(tmp_path):
    llama(0).save_pretrained(tmp_path / "good")
    return tmp_path / "good"


def damage(folder, weights=None, config=None):
    """Rewrite a checkpoint's tensors and configuration through two functions."""
    if weights:
        tensors = load_file(folder / "model.safetensors")
        weights(tensors)
        save_file(tensors, folder / "model.safetensors")
    if config:
        values = json.loads((folder / "config.json").read_text())
        config(values)
        (folder / "config.json").write_text(json.dumps(values))


KEY = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("weights", "config", "words"),
    [
        (lambda w: w.pop(KEY), None, [KEY, "missing"]),
        (lambda w: w.update(extra=torch.ones(2)), None, ["extra", "unexpected"]),
        (lambda w: w.update({KEY: torch.ones(4, 4)}), None, [KEY, "(4, 4)", "(56, 32)"]),
        (lambda w: w.pop("lm_head.weight"), None, ["lm_head.weight", "tie_word_embeddings"]),
        (None, lambda c: c.update(tie_word_embeddings=True), ["lm_head.weight", "tie_word_embeddings"]),
        (None, lambda c: c.update(model_type="bert"), ["'bert'", "gpt2", "llama"]),
        (None, lambda c: c.update(hidden_act="relu"), ["hidden_act", "'relu'"]),
        (
            None,
            lambda c: c.update(rope_parameters={"rope_type": "longrope", "factor": 2}),
            ["'longrope'", "yarn"],
        ),
        (None, lambda c: c.pop("hidden_size"), ["hidden_size", "missing"]),
        (None, lambda c: c.update(num_key_value_heads=3), ["kv_heads 3"]),
    ],
)
def test_foreign_and_damaged_checkpoints_are_refused(folder, weights, config, words):
    damage(folder, weights, config)
    with pytest.raises(CheckpointError) as caught:
        load_language_model(folder)
    for word in [*words, str(folder), "To mend it"]:
        assert word in str(caught.value)


def test_a_missing_scalar_head_is_refused(folder):
    """Field fault 19: no newly initialised head."""
    damage(folder, lambda w: w.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"score\.weight is missing.*reward"):
        load_scalar_model(folder)


def test_a_reward_model_is_not_a_language_model(tmp_path):
    save_model(
        new_scalar_model(ModelConfig.gpt2(vocab_size=9, width=8, layers=1, heads=1, context=8), 0), tmp_path
    )
    with pytest.raises(CheckpointError, match="language model"):
        load_language_model(tmp_path)


def test_files_that_are_missing_cut_off_or_pickled(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no such model folder"):
        load_language_model(tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="cut off"):
        load_language_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never loaded"):
        load_language_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json can't be read"):
        load_language_model(folder)


def test_an_index_cannot_name_files_elsewhere(folder):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../good/part.safetensors"}}')
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_language_model(folder)


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    model = new_scalar_model(ModelConfig.gpt2(vocab_size=9, width=8, layers=1, heads=1, context=8), 0)
    with pytest.raises(StorageError, match="taken"):
        save_model(model, tmp_path / "taken")


def test_configuration_of_transformers_4_is_read():
    """Version 4 wrote rope_theta at the top; the original GPT-2 file leaves n_inner and the tie out."""
    values = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_attention_heads=4, num_hidden_layers=1
    ).to_dict()
    values.pop("rope_parameters")
    assert model_config_from_hf(values | {"rope_theta": 777.0, "rope_scaling": None}).rope_theta == 777.0
    small = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 4}
    config = model_config_from_hf(small)
    assert (config.tied, config.ffn_width, config.norm_eps) == (True, 32, 1e-5)
