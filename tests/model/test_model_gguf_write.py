"""GGUF export: read back by ourselves, by the gguf package and by transformers. (llama.cpp: its own file.)"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import AutoModelForCausalLM

from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.gguf_layout import divisors
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    "the cat sat on the mat and the dog sat on the log; 1999 was 12 years after 1987, don't you know? " * 4
]
NASTY = (
    "the cat sat, 1999!",
    "  你好 世界\n\n12",
    "naïve — café 🙂",
    "DON'T we'LL\r\n\t x",
    "<|end|> 3.14",
    "",
)
SIZES = {"vocab_size": 320, "width": 64, "layers": 2, "heads": 4, "context": 96}
LLAMA = SIZES | {"kv_heads": 2, "ffn_width": 96}
SHAPES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "gpt2-untied": ModelConfig.gpt2(**SIZES, tied=False, ffn_width=128),
    "llama": ModelConfig.llama(**LLAMA, tied=False, rope_theta=5000.0),
    "llama-biases": ModelConfig.llama(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=32),
    "llama-linear": ModelConfig.llama(**LLAMA, rope=RopeScaling("linear", 2.5)),
    "llama-yarn": ModelConfig.llama(**LLAMA, rope=RopeScaling("yarn", 4.0, 24, beta_fast=16.0)),
    "llama3": ModelConfig.llama(**LLAMA, rope=RopeScaling("llama3", 8.0, 24)),
    "mistral": ModelConfig.llama(**LLAMA, family="mistral", tied=False, window=96),
    "qwen2": ModelConfig.llama(**LLAMA, family="qwen2", attention_bias=True),
    "qwen3": ModelConfig.llama(**LLAMA, family="qwen3", head_dim=32, tied=False),
}
KINDS = pytest.mark.parametrize("name", SHAPES)


def make_folder(folder, config, *, half=False, seed=0):
    """A random model (biases and norms too) with a tokenizer of its own, as a stage would save it."""
    model = new_language_model(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if half:
                parameter.copy_(parameter.half())
    tokenizer = train_tokenizer(TEXTS, 310)
    special = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.end_of_turn_id,
        "pad_token_id": tokenizer.pad_id,
    }
    save_model(model, folder, special=special)
    tokenizer.save(folder)
    return model


def there_and_back(folder, out, kind):
    path = out / "model.gguf"
    convert(ConvertConfig(source=str(folder), out=str(path), to="gguf", type=kind))
    convert(ConvertConfig(source=str(path), out=str(out / "back")))
    return gguf.GGUFReader(path), load_language_model(out / "back")


def fields_of(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


@KINDS
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_weights_come_back_bit_by_bit(name, kind, tmp_path):
    """F16 holds what float16 can hold; vectors are F32 in either file."""
    model = make_folder(tmp_path / "model", SHAPES[name], half=kind == "f16")
    reader, back = there_and_back(tmp_path / "model", tmp_path, kind)
    assert back.config == model.config
    for (key, left), right in zip(back.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(left, right), key
    for tensor in reader.tensors:
        matrix = len(tensor.shape) > 1 and tensor.name != "position_embd.weight"
        assert tensor.tensor_type == (Kind[kind.upper()] if matrix else Kind.F32), tensor.name


@KINDS
def test_q8_0_stays_within_its_step(name, tmp_path):
    """32 numbers share a scale of a 127th of the largest. Rounding costs half a step, and the scale itself
    is a float16 (2^-11 of it, times 127 at most): 0.562 steps together."""
    model = make_folder(tmp_path / "model", SHAPES[name])
    reader, back = there_and_back(tmp_path / "model", tmp_path, "q8_0")
    assert {t.tensor_type for t in reader.tensors} == {Kind.Q8_0, Kind.F32}
    for (key, left), right in zip(back.named_parameters(), model.parameters(), strict=True):
        if right.dim() < 2 or "position" in key:
            assert torch.equal(left, right), key
            continue
        # By rows of our own tensors: cutting and turning heads moves whole rows.
        blocks = right.detach().reshape(-1, 32)
        step = blocks.abs().amax(1, keepdim=True) / 127
        error = (left.detach().reshape(-1, 32) - blocks).abs()
        assert bool((error <= 0.5625 * step).all()), key
        assert float(error.max()) > 0, key


def test_rows_that_no_block_fits_are_f16(tmp_path):
    make_folder(tmp_path / "model", ModelConfig.llama(**LLAMA | {"ffn_width": 40}))
    reader, _ = there_and_back(tmp_path / "model", tmp_path, "q8_0")
    kinds = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    assert kinds["blk.0.ffn_down.weight"] == Kind.F16 and kinds["blk.0.ffn_up.weight"] == Kind.Q8_0


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_transformers_reads_the_file(name, tmp_path, monkeypatch):
    """Another program's reader gives the same logits."""
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda *args, **more: True)
    # It takes GPT-2's context for 1,024 and Qwen 3's head size for 128, whatever the file says.
    change = {"gpt2": {"context": 1024}, "qwen3": {"head_dim": 128}}.get(name, {})
    model = make_folder(tmp_path / "model", dataclasses.replace(SHAPES[name], **change))
    there_and_back(tmp_path / "model", tmp_path, "f32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ids = torch.randint(7, 300, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model.logits(model(ids, torch.arange(40), [40]))
        torch.testing.assert_close(ours, theirs(ids[None]).logits[0], atol=1e-4, rtol=1e-4)


def test_metadata_tokenizer_and_template(tmp_path):
    make_folder(tmp_path / "model", SHAPES["llama"])
    reader, _ = there_and_back(tmp_path / "model", tmp_path, "f16")
    ours, back = Tokenizer.load(tmp_path / "model"), Tokenizer.load(tmp_path / "back")
    fields = fields_of(reader)
    expected = {
        "general.architecture": "llama",
        "general.name": "model",
        "general.file_type": 1,
        "llama.context_length": 96,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 5000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": ours.chat_template,
    }
    assert {key: fields.get(key) for key in expected} == expected
    types = fields["tokenizer.ggml.token_type"]
    # Seven specials, 303 tokens, and ten rows of the embedding that no token has.
    assert types == [3] * 7 + [1] * 303 + [5] * 10
    assert fields["tokenizer.ggml.tokens"][310:312] == ["[PAD310]", "[PAD311]"]
    for text in NASTY:
        assert back.encode(text) == ours.encode(text)
        assert back.encode(text, special=True) == ours.encode(text, special=True)
    assert (back.vocab_size, back.stop_ids, back.special_ids) == (310, ours.stop_ids, ours.special_ids)
    generation = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 3]


LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPLIT = LLAMA3_SPLIT.replace("{1,3}", "")


def foreign_tokenizer(split, *, normalizer=None, ignore_merges=False, bos=False):
    """As the tokenizer.json of these models: the steps that their files hold."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=not split)
    backend = Backend(models.BPE(ignore_merges=ignore_merges))
    steps = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<|eos|>", "<|end|>", "<|bos|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer=trainer)
    return backend


def with_tokenizer(folder, backend, **names):
    make_folder(folder, SHAPES["llama"])
    backend.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|eos|>"} | names
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@pytest.mark.parametrize(
    ("rule", "backend"),
    [
        ("gpt-2", lambda: foreign_tokenizer("")),
        ("llama-bpe", lambda: foreign_tokenizer(LLAMA3_SPLIT, ignore_merges=True)),
        ("qwen2", lambda: foreign_tokenizer(QWEN_SPLIT)),
        ("qwen2", lambda: foreign_tokenizer(QWEN_SPLIT, normalizer=normalizers.NFC())),
    ],
)
def test_rules_of_splitting_text(rule, backend, tmp_path):
    folder = with_tokenizer(tmp_path / "model", backend())
    reader, _ = there_and_back(folder, tmp_path, "f16")
    assert fields_of(reader)["tokenizer.ggml.pre"] == rule
    ours, back = Tokenizer.load(folder), Tokenizer.load(tmp_path / "back")
    for text in NASTY:
        assert back.encode(text, special=True) == ours.encode(text, special=True)


def test_smollm_rule_and_tokens_around_a_text(tmp_path):
    backend = foreign_tokenizer("")
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", 2), ("<|eos|>", 0)]
    )
    folder = with_tokenizer(
        tmp_path / "model", backend, bos_token={"content": "<|bos|>"}, unk_token="<|eos|>"
    )
    reader, _ = there_and_back(folder, tmp_path, "f16")
    fields = fields_of(reader)
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.add_bos_token"] is True and fields["tokenizer.ggml.bos_token_id"] == 2
    assert fields["tokenizer.ggml.add_eos_token"] is True and fields["tokenizer.ggml.unknown_token_id"] == 0
    back = Backend.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert back.encode("a 12").ids == backend.encode("a 12").ids
    assert back.encode("a 12").ids[0] == 2 and back.encode("a 12").ids[-1] == 0


def spaced(backend):
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True)])
    return backend


def odd_split():
    backend = foreign_tokenizer("")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), backend.pre_tokenizer])
    return backend


def sentencepiece():
    backend = foreign_tokenizer("")
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return backend


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (sentencepiece, "byte-level BPE"),
        (odd_split, "splits text in a way"),
        (lambda: foreign_tokenizer(QWEN_SPLIT + "|x"), "splits text in a way"),
        (lambda: foreign_tokenizer("", normalizer=normalizers.Lowercase()), "normalises text"),
        (lambda: foreign_tokenizer(LLAMA3_SPLIT), "ignore_merges"),
        (lambda: spaced(foreign_tokenizer("")), "strips spaces"),
    ],
)
def test_tokenizers_that_llama_cpp_would_apply_otherwise_are_refused(backend, words, tmp_path):
    folder = with_tokenizer(tmp_path / "model", backend())
    with pytest.raises(CheckpointError, match=words):
        convert(ConvertConfig(source=str(folder), out=str(tmp_path / "x.gguf"), to="gguf"))
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (ModelConfig.llama(**LLAMA, family="qwen3", attention_bias=True), "biases"),
        (ModelConfig.llama(**LLAMA, family="qwen2", attention_bias=True, head_dim=32), "4 x 32"),
        (ModelConfig.llama(**LLAMA, family="qwen3", rope=RopeScaling("llama3", 8.0, 24)), "Llama 3.1"),
        (ModelConfig.llama(**LLAMA, rope=RopeScaling("yarn", 8.0, 24, truncate=False)), "truncate"),
    ],
)
def test_shapes_that_llama_cpp_has_not_are_refused(shape, words, tmp_path):
    make_folder(tmp_path / "model", shape)
    with pytest.raises(ConfigError, match=words):
        convert(ConvertConfig(source=str(tmp_path / "model"), out=str(tmp_path / "x.gguf"), to="gguf"))


def test_a_window_shortens_the_context(tmp_path):
    """llama.cpp attends to everything: only within the window is that the same."""
    shape = ModelConfig.llama(**LLAMA, family="mistral", window=40)
    model = make_folder(tmp_path / "model", shape)
    reader, back = there_and_back(tmp_path / "model", tmp_path, "f32")
    assert fields_of(reader)["llama.context_length"] == 40
    assert (back.config.family, back.config.context, back.config.window) == ("mistral", 40, 40)
    assert torch.equal(back.unembedding, model.unembedding)


def test_yarns_attention_factor_is_kept(tmp_path):
    """llama.cpp multiplies by 0.1 ln(4) + 1 = 1.13863 itself; the file holds what is left of 1.5."""
    rope = RopeScaling("yarn", 4.0, 24, attention_factor=1.5)
    make_folder(tmp_path / "model", ModelConfig.llama(**LLAMA, rope=rope))
    reader, back = there_and_back(tmp_path / "model", tmp_path, "f32")
    assert fields_of(reader)["llama.rope.scaling.attn_factor"] == pytest.approx(1.5 / 1.1386294, rel=1e-6)
    assert back.config.rope.attention_factor == pytest.approx(1.5, rel=1e-6)


def test_frequencies_of_llama3_are_divisors_and_foreign_ones_are_refused(tmp_path):
    """Head size 16, base 10000: of the eight frequencies the slow ones are divided by 8."""
    path = tmp_path / "model.gguf"
    make_folder(tmp_path / "model", SHAPES["llama3"])
    reader, _ = there_and_back(tmp_path / "model", tmp_path, "f32")
    stored = next(t for t in reader.tensors if t.name == "rope_freqs.weight").data
    # Turns in 24 tokens: 24 / (2 pi) * 10000^(-i/8) = 3.82, 1.21, 0.38, ...: none above 4, i >= 2 below 1.
    assert stored.shape == (8,) and stored[2:].tolist() == pytest.approx([8.0] * 6)
    # i = 0: 0.93990 = (3.8197 - 1) / 3 is kept, the rest divided by 8: 1 / (0.0601 / 8 + 0.9399) = 1.0555.
    assert stored[0] == pytest.approx(1.0555, abs=1e-4)
    assert torch.equal(divisors(SHAPES["llama3"]), torch.from_numpy(stored.copy()))
    damaged = bytearray(path.read_bytes())
    place = damaged.find(stored.tobytes())
    damaged[place : place + 4] = b"\x00\x00\x40\x40"  # 3.0
    (tmp_path / "odd.gguf").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="rope_freqs"):
        convert(ConvertConfig(source=str(tmp_path / "odd.gguf"), out=str(tmp_path / "odd")))


def test_the_verb_writes_one_file_once(tmp_path):
    make_folder(tmp_path / "model", SHAPES["llama"])
    config = ConvertConfig(
        source=str(tmp_path / "model"), out=str(tmp_path / "m.gguf"), to="gguf", type="q8_0"
    )
    summary = convert(config)
    assert json.loads((tmp_path / "m.summary.json").read_text()) == summary
    assert summary["type"] == "q8_0" and summary["model"]["layers"] == 2
    stamp = Path(config.out).stat().st_mtime_ns
    assert convert(config) == summary and Path(config.out).stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="there already"):
        convert(ConvertConfig(source=str(tmp_path / "model"), out=config.out, to="gguf", type="f16"))
    # From a GGUF file to a GGUF file: a matrix that was Q8_0 is exactly F32.
    convert(ConvertConfig(source=config.out, out=str(tmp_path / "wide.gguf"), to="gguf", type="f32"))
    narrow, wide = (gguf.GGUFReader(tmp_path / name).tensors for name in ("m.gguf", "wide.gguf"))
    assert sum(t.n_bytes for t in narrow) < 0.3 * sum(t.n_bytes for t in wide)
    assert [t.name for t in narrow] == [t.name for t in wide]
    assert not list(tmp_path.glob("*.tmp"))


def test_what_can_not_be_exported(tmp_path):
    save_model(new_scalar_model(SHAPES["llama"], 0), tmp_path / "reward")
    to = {"out": str(tmp_path / "x.gguf"), "to": "gguf"}
    with pytest.raises(CheckpointError, match="reward or value model"):
        convert(ConvertConfig(source=str(tmp_path / "reward"), **to))
    model = make_folder(tmp_path / "model", SHAPES["llama"])
    (tmp_path / "model" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        convert(ConvertConfig(source=str(tmp_path / "model"), **to))
    train_tokenizer(TEXTS, 310).save(tmp_path / "model")
    narrow = ModelConfig.llama(**LLAMA | {"vocab_size": 309})
    make_folder(tmp_path / "narrow", narrow)
    with pytest.raises(CheckpointError, match="ids up to 309, the model 309 rows"):
        convert(ConvertConfig(source=str(tmp_path / "narrow"), **to))
    for value, words in ((1e6, "beyond what f16"), (float("nan"), "not finite")):
        with torch.no_grad():
            model.transformer.blocks[0].feed.down.weight[3, 4] = value
        save_model(model, tmp_path / "model")
        with pytest.raises(CheckpointError, match=rf"blk\.0\.ffn_down\.weight.*{words}"):
            convert(ConvertConfig(source=str(tmp_path / "model"), **to))
    assert not list(tmp_path.glob("x.*"))
