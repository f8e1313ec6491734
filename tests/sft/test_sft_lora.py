"""Instruction tuning of adapters: it learns, the base stays, it resumes to the bit, it is gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructgpt.errors import ConfigError
from instructgpt.generation.loading import open_model
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_language_model
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.runtime.files import hash_path
from instructgpt.runtime.metrics import read_metrics
from instructgpt.sft import train as stage
from instructgpt.sft.train import SFTConfig, train
from instructgpt.text.tokenizer import train_tokenizer

COLOURS = ("red", "blue", "green", "grey", "pink")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base model of either layout, and demonstrations that say a colour back."""
    folder = tmp_path_factory.mktemp(request.param)
    rows = [{"prompt": f"say {colour} {n}", "response": f"{colour}!"} for n in range(4) for colour in COLOURS]
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines[:16]))
    (folder / "valid.jsonl").write_text("".join(lines[16:]))
    tokenizer = train_tokenizer([row["prompt"] + row["response"] for row in rows], 280)
    make = ModelConfig.llama if request.param == "llama" else ModelConfig.gpt2
    shape = make(vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, context=32)
    write_checkpoint(new_language_model(shape, seed=3), tokenizer, folder / "base")
    return folder


def config(world: Path, out: Path, **more: Any) -> SFTConfig:
    values: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "train.jsonl"),
        "validation": str(world / "valid.jsonl"),
        "out": str(out),
        "epochs": 2.0,
        "batch": 3,
        "lr": 2e-2,
        "max_new": 6,
        "eval_prompts": 4,
        "lora_rank": 4,
        "device": "cpu",
    }
    return SFTConfig(**(values | more))


def test_it_learns_and_the_base_stays(world: Path, tmp_path: Path) -> None:
    before = hash_path(world / "base")
    summary = train(config(world, tmp_path / "r", epochs=16.0))
    rows = read_metrics(tmp_path / "r/metrics.jsonl")
    assert rows[0]["loss"] > 5 and summary["validation_loss"] < 3
    assert hash_path(world / "base") == before
    checkpoint = tmp_path / "r" / summary["checkpoint"]
    assert not (checkpoint / "model.safetensors").exists()
    stored = load_file(checkpoint / "adapter_model.safetensors")
    numbers = sum(tensor.numel() for tensor in stored.values())
    # Rank 4, width 16, feed-forward 64: a (rows, columns) matrix has 4 x (rows + columns) numbers. Llama has
    # q, k, v, o, gate, up, down; GPT-2 one matrix of q, k and v, its output, and two of the feed-forward.
    if any("gate_proj" in name for name in stored):
        block = 4 * (4 * (16 + 16) + 3 * (16 + 64))
    else:
        block = 4 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))
    assert numbers == 2 * block
    memory = summary["memory_estimate_mib"]
    assert memory["trained"] == memory["gradients"] == 0 and memory["total"] >= memory["activations"] > 0
    model, _ = open_model(tmp_path / "r")
    assert type(model) is type(load_language_model(world / "base"))


def test_killed_and_resumed_equals_undisturbed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout on; 11 steps, checkpoints at 6 and 11."""
    train(config(world, tmp_path / "whole", residual_dropout=0.2))
    calls, original = [0], stage.clip_gradients

    def clip(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(stage, "clip_gradients", clip)
    with pytest.raises(KeyboardInterrupt):
        train(config(world, tmp_path / "cut", residual_dropout=0.2))
    monkeypatch.undo()
    train(config(world, tmp_path / "cut", residual_dropout=0.2))
    for name in ("adapter_model.safetensors", "train_state/tensors.safetensors"):
        one, other = (
            load_file(tmp_path / run / "checkpoints" / "step-000011" / name) for run in ("whole", "cut")
        )
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_an_adapter_is_trained_further_or_merged_and_trained_whole(world: Path, tmp_path: Path) -> None:
    first = train(config(world, tmp_path / "first"))
    further = train(config(world, tmp_path / "further", model=str(tmp_path / "first")))
    start = read_metrics(tmp_path / "first/metrics.jsonl")[0]["loss"]
    assert read_metrics(tmp_path / "further/metrics.jsonl")[0]["loss"] < start
    assert further["validation_loss"] < first["validation_loss"]
    whole = train(
        config(world, tmp_path / "whole", model=str(tmp_path / "first"), lora_rank=0, lr=1e-3, epochs=0.2)
    )
    assert (tmp_path / "whole" / whole["checkpoint"] / "model.safetensors").exists()
    with pytest.raises(ConfigError, match="use --lora-rank 4"):
        train(config(world, tmp_path / "other", model=str(tmp_path / "first"), lora_rank=2))


def test_it_learns_over_an_8_bit_base(world: Path, tmp_path: Path) -> None:
    summary = train(config(world, tmp_path / "r", epochs=8.0, lora_base="int8"))
    rows = read_metrics(tmp_path / "r/metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"] - 2
    assert summary["memory_estimate_mib"]["frozen"] == 0  # a fraction of a MiB


@pytest.mark.parametrize("base", ["float32", "int8"])
def test_half_precision(world: Path, tmp_path: Path, base: str) -> None:
    """bfloat16 products over either base; adapters and what is saved stay float32."""
    summary = train(config(world, tmp_path / "r", epochs=4.0, dtype="bfloat16", lora_base=base))
    rows = read_metrics(tmp_path / "r/metrics.jsonl")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    stored = load_file(tmp_path / "r" / summary["checkpoint"] / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_the_estimate_is_said_before_the_start(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "1")
    train(config(world, tmp_path / "r", epochs=0.2, eval_prompts=0))
    said = capsys.readouterr().err
    assert said.startswith("instructgpt sft: about ") and "for 8192 tokens a pass" in said.splitlines()[0]
