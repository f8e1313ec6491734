"""`convert --merge-lora`: a complete checkpoint, a GGUF file, a reward model proving its head; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from instructgpt.conversion.convert import ConvertConfig, convert
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, ScalarModel, new_language_model
from instructgpt.model.hf import load_scalar_model, save_model
from instructgpt.model.lora import adapters
from instructgpt.model.lora_settings import Lora
from instructgpt.model.shared import Bases, language_over, scalar_over
from instructgpt.rlhf.prepare import special_ids
from instructgpt.scoring.reward import RewardModel
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.chat import Message
from instructgpt.text.tokenizer import Tokenizer, train_tokenizer

IDS = torch.tensor([10, 30, 50, 20])


def hidden(model: LanguageModel | ScalarModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, torch.arange(4), [4])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A random language model with its tokenizer."""
    tokenizer = train_tokenizer(["the cat sat on the mat and the dog ran to the red house " * 3], 290)
    shape = ModelConfig.gpt2(vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, context=64)
    save_model(new_language_model(shape, 1), tmp_path / "base", special=special_ids(tokenizer))
    tokenizer.save(tmp_path / "base")
    return tmp_path / "base"


def write(model: LanguageModel | ScalarModel, folder: Path, tokenizer: Tokenizer) -> Path:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in adapters(model, model.config).values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    save_model(model, folder, special=special_ids(tokenizer))
    tokenizer.save(folder)
    if isinstance(model, ScalarModel):
        write_selftest(folder, model, tokenizer)
    return folder


def test_a_language_model(base: Path, tmp_path: Path) -> None:
    """The folder stands alone: transformers opens it, and it is the model that was trained."""
    ours = language_over(Bases().open(base), Lora(rank=2, alpha=4.0))
    adapter = write(ours, tmp_path / "adapter", Tokenizer.load(base))
    out = tmp_path / "merged"
    convert(ConvertConfig(merge_lora=str(adapter), out=str(out)))
    base.rename(tmp_path / "gone")
    model, _ = open_model(out)
    torch.testing.assert_close(hidden(model), hidden(ours), atol=1e-5, rtol=1e-5)
    theirs = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(IDS[None]).logits[0], ours.logits(hidden(ours)), atol=1e-5, rtol=1e-5
        )
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    stage = json.loads((out / "stage.json").read_text())
    assert stage["config"]["merge_lora"] == str(adapter)


def test_a_gguf_file(base: Path, tmp_path: Path) -> None:
    ours = language_over(Bases().open(base), Lora(rank=2, alpha=4.0))
    adapter = write(ours, tmp_path / "adapter", Tokenizer.load(base))
    file = tmp_path / "merged.gguf"
    convert(ConvertConfig(merge_lora=str(adapter), out=str(file), to="gguf", type="f32"))
    convert(ConvertConfig(source=str(file), out=str(tmp_path / "back")))
    model, _ = open_model(tmp_path / "back")
    torch.testing.assert_close(hidden(model), hidden(ours), atol=1e-5, rtol=1e-5)


def test_a_reward_model(base: Path, tmp_path: Path) -> None:
    ours = scalar_over(Bases().open(base), Lora(rank=2, alpha=4.0), 3)
    ours.reward_bias.fill_(0.3)
    adapter = write(ours, tmp_path / "adapter", Tokenizer.load(base))
    out = tmp_path / "merged"
    convert(ConvertConfig(merge_lora=str(adapter), out=str(out), dtype="bfloat16"))
    assert load_scalar_model(out).reward_bias.item() == pytest.approx(0.3, abs=1e-7)
    asked = [[Message("user", "the cat")]]
    found, exact = (RewardModel.load(folder).score(asked, ["the dog"])[0] for folder in (out, adapter))
    assert found == pytest.approx(exact, abs=0.05) and found != exact  # weights rounded to 8 bits of mantissa
    test = json.loads((adapter / "selftest.json").read_text())
    test["texts"][0]["score"] += 1.0
    (adapter / "selftest.json").write_text(json.dumps(test))
    with pytest.raises(CheckpointError, match="does not reproduce its own scores"):
        convert(ConvertConfig(merge_lora=str(adapter), out=str(tmp_path / "no")))


def test_what_is_no_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this is no adapter"):
        convert(ConvertConfig(merge_lora=str(base), out=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="--source and --merge-lora exclude each other"):
        ConvertConfig(source="a", merge_lora="b", out="c")
    ours = language_over(Bases().open(base), Lora(rank=2))
    adapter = write(ours, tmp_path / "adapter", Tokenizer.load(base))
    with pytest.raises(CheckpointError, match="convert --merge-lora"):
        convert(ConvertConfig(source=str(adapter), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
