"""The reward model as an adapter with a head: it learns, shifts, resumes, scores, and may be several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from instructgpt.model.adapter import is_adapter
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model
from instructgpt.model.hf import load_scalar_model, save_model
from instructgpt.model.lora import adapters
from instructgpt.model.lora_settings import Lora
from instructgpt.model.shared import Bases, language_over
from instructgpt.pretrain.train import write_checkpoint
from instructgpt.reward_model import train as stage
from instructgpt.reward_model.train import RewardConfig, train
from instructgpt.runtime.files import hash_path
from instructgpt.runtime.metrics import read_metrics
from instructgpt.scoring.reward import RewardModel, load_reward
from instructgpt.text.chat import Message
from instructgpt.text.tokenizer import train_tokenizer

THINGS = ("fox", "hat", "sea", "cup")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rankings in which "good" is best and "bad" worst; a base, and an SFT adapter over it."""
    folder = tmp_path_factory.mktemp("world")
    rows = [
        {
            "prompt": f"a {THINGS[n % 4]} {n}?",
            "responses": [{"text": f"{w} {THINGS[n % 4]}", "rank": r} for w, r in (("good", 1), ("bad", 2))],
        }
        for n in range(24)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:18]))
    (folder / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[18:]))
    shown = [{"prompt": row["prompt"], "response": row["responses"][0]["text"]} for row in rows[:6]]
    (folder / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    tokenizer = train_tokenizer([row["prompt"] + "good bad" for row in rows], 280)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2, context=40)
    write_checkpoint(new_language_model(shape, seed=3), tokenizer, folder / "base")
    adapted = language_over(Bases().open(folder / "base"), Lora(rank=2))
    with torch.no_grad():
        for tensor in adapters(adapted, shape).values():
            tensor.add_(0.05)
    save_model(adapted, folder / "sft")
    tokenizer.save(folder / "sft")
    return folder


def config(world: Path, out: Path, **more: Any) -> RewardConfig:
    values: dict[str, Any] = {
        "model": str(world / "base"),
        "data": str(world / "train.jsonl"),
        "validation": str(world / "valid.jsonl"),
        "demonstrations": str(world / "demonstrations.jsonl"),
        "out": str(out),
        "batch": 6,
        "epochs": 6.0,
        "lr": 2e-2,
        "save_every": 4,
        "baselines": False,
        "lora_rank": 2,
        "device": "cpu",
    }
    return RewardConfig(**(values | more))


@pytest.mark.parametrize("start", ["base", "sft"])
def test_it_learns_over_a_base_or_from_an_adapter(world: Path, tmp_path: Path, start: str) -> None:
    before = hash_path(world / "base")
    summary = train(config(world, tmp_path / "r", model=str(world / start), epochs=16.0))
    losses = [row["loss"] for row in read_metrics(tmp_path / "r/metrics.jsonl")]
    # Three steps are an epoch.
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]) and summary["accuracy"] > 0.8
    assert summary["demonstration_mean"] == pytest.approx(0.0, abs=1e-5)
    assert hash_path(world / "base") == before
    checkpoint = tmp_path / "r" / summary["checkpoint"]
    assert is_adapter(checkpoint) and not (checkpoint / "model.safetensors").exists()
    base = json.loads((checkpoint / "base.json").read_text())
    assert (checkpoint / base["path"]).resolve() == (world / "base").resolve()
    assert load_scalar_model(checkpoint).reward_bias.item() == base["reward_bias"] != 0.0
    reward = load_reward(str(tmp_path / "r"))
    assert isinstance(reward, RewardModel)
    good, bad = reward.score([[Message("user", "a fox 3?")]] * 2, ["good fox", "bad fox"])
    assert good > bad
    shared = RewardModel.load(tmp_path / "r", bases=Bases())
    assert shared.score([[Message("user", "a fox 3?")]], ["good fox"])[0] == pytest.approx(good, abs=1e-4)


def test_killed_and_resumed_equals_undisturbed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(world, tmp_path / "whole"))
    calls, original = [0], stage.clip_gradients

    def clip(*arguments: Any) -> float:
        calls[0] += 1
        if calls[0] == 7:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(stage, "clip_gradients", clip)
    with pytest.raises(KeyboardInterrupt):
        train(config(world, tmp_path / "cut"))
    monkeypatch.undo()
    train(config(world, tmp_path / "cut"))
    for name in ("adapter_model.safetensors", "train_state/tensors.safetensors"):
        one, other = (
            load_file(tmp_path / run / "checkpoints" / "step-000018" / name) for run in ("whole", "cut")
        )
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_an_ensemble_of_adapters_shares_one_base(world: Path, tmp_path: Path) -> None:
    train(config(world, tmp_path / "r", members=2, epochs=1.0))
    ensemble = load_reward(str(tmp_path / "r"), bases=Bases())
    first, second = (member.model for member in ensemble.members)  # type: ignore[attr-defined]
    frozen = [
        {p.data_ptr() for n, p in m.named_parameters() if "lora" not in n and n != "head.weight"}
        for m in (first, second)
    ]
    assert frozen[0] == frozen[1]
    assert not torch.equal(first.head.weight, second.head.weight)
