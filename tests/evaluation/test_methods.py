"""The stage `methods`: which checkpoints are chosen, and a whole measurement on a tiny world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from instructgpt.data.records import read_texts
from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.evaluation.collect import WorldStageConfig, write
from instructgpt.evaluation.methods import MethodsConfig, Place, choose, places_of, run
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import new_language_model, new_scalar_model
from instructgpt.model.hf import save_model
from instructgpt.scoring.selftest import write_selftest
from instructgpt.text.tokenizer import train_tokenizer


def _run(folder: Path, rows: list[dict[str, Any]], steps: list[int], batch: int = 0) -> Path:
    """A run folder with metrics and empty checkpoints."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": {"batch": batch}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in steps:
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    return folder


def test_places_add_up_seconds_and_samples(tmp_path) -> None:
    rows = [{"step": n, "seconds_rollout": 1.0, "seconds_update": 0.5 * n, "lr": 9.0} for n in (1, 2, 3)]
    found = places_of(_run(tmp_path / "ppo", rows, [2, 3], batch=256))  # PPO logs no samples
    assert [(place.step, place.samples, place.seconds) for place in found] == [(2, 512, 3.5), (3, 768, 6.0)]
    rows = [{"step": n, "seconds_update": 2.0, "samples": 50.0 * n} for n in (1, 2)]
    found = places_of(_run(tmp_path / "dpo", rows, [1, 2], batch=8))
    assert [(place.samples, place.seconds) for place in found] == [(50.0, 2.0), (100.0, 4.0)]
    with pytest.raises(CheckpointError, match="no checkpoints with metrics"):
        places_of(_run(tmp_path / "none", rows, []))


def test_the_last_checkpoint_within_each_budget_is_chosen(tmp_path) -> None:
    def path(*spent: tuple[float, float]) -> list[Place]:
        return [Place(tmp_path / str(i), i, *pair) for i, pair in enumerate(spent)]

    paths = {
        "ppo_ptx": path((100, 10), (200, 20)),
        "fast": path((100, 4), (200, 8), (300, 12), (600, 24)),
        "slow": path((100, 25), (200, 50)),
        "dpo": path((250, 15), (500, 30), (750, 45)),
    }
    spent = {"samples": 200.0, "seconds": 20.0, "reward_seconds": 11.0}
    found = {(name, at): place.step for name, at, place in choose(paths, spent, ["dpo"])}
    assert found == {
        ("ppo_ptx", "samples"): 1, ("ppo_ptx", "seconds"): 1,
        ("fast", "samples"): 1, ("fast", "seconds"): 2,
        ("slow", "samples"): 1,  # its first checkpoint came after the time was up
        ("dpo", "seconds"): 0, ("dpo", "seconds_with_reward"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"runs": ("a=x", "a=y"), "budget": "a"}, {"runs": ("sft=x",), "budget": "sft"}, {"runs": ("a=x",)},
     {"runs": ("a=x",), "budget": "a", "offline": ("b",)}],
)  # fmt: skip
def test_names_must_fit(changes) -> None:
    with pytest.raises(ConfigError):
        MethodsConfig(**changes)


def test_a_whole_measurement(tmp_path, monkeypatch) -> None:
    """A run whose only checkpoint is the SFT model itself differs from it in nothing; another one does."""
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")
    world = tmp_path / "world"
    write(WorldStageConfig(out=str(world), people=12, pretrain=40, pretrain_valid=4, demonstrations=4,
                           demonstrations_valid=2, reward=2, ppo=2, eval=6, valid=2))  # fmt: skip
    texts = [text.text for text in read_texts(str(world / "pretrain.jsonl"))]
    tokenizer = train_tokenizer(texts, vocab_size=300)
    shape = ModelConfig.llama(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=256)
    sft, other, reward = (
        new_language_model(shape, 1),
        new_language_model(shape, 2),
        new_scalar_model(shape, 3),
    )
    reward.reward_bias = torch.tensor(0.0)
    rows = [{"step": 1, "seconds_update": 1.0, "samples": 8.0}]
    folders = {
        "sft": (tmp_path / "sft", sft),
        "same": (_run(tmp_path / "same", rows, []) / "checkpoints" / "step-000001", sft),
        "other": (_run(tmp_path / "other", rows, []) / "checkpoints" / "step-000001", other),
        "reward": (tmp_path / "reward", reward),
    }
    for folder, model in folders.values():
        save_model(model, folder)
        tokenizer.save(folder)
    write_selftest(folders["reward"][0], reward, tokenizer)
    (tmp_path / "reward_run").mkdir()
    (tmp_path / "reward_run" / "summary.json").write_text(json.dumps({"seconds": 2.5}))
    config = MethodsConfig(
        out=str(tmp_path / "methods"),
        world=str(world),
        reward=str(folders["reward"][0]),
        reference=str(folders["sft"][0]),
        runs=(f"same={tmp_path / 'same'}", f"other={tmp_path / 'other'}"),
        budget="same",
        offline=("other",),
        reward_run=str(tmp_path / "reward_run"),
        prompts=str(world / "prompts_eval.jsonl"),
        text=str(world / "pretrain_valid.jsonl"),
        count=5,
        max_new=8,
    )
    summary = run(config)
    assert summary["budget"] == {"samples": 8.0, "seconds": 1.0, "reward_seconds": 2.5}
    assert summary["prompts"] == 5
    points = {(point["method"], point["at"]): point for point in summary["points"]}
    assert set(points) == {("same", "samples"), ("same", "seconds")} | {
        ("other", at) for at in ("samples", "seconds", "seconds_with_reward")
    }
    same, far = points["same", "samples"], points["other", "samples"]
    assert same["kl"]["mean"] == pytest.approx(0.0, abs=1e-6) and same["tax"] == 0.0
    assert same["over_sft"]["mean"] == same["over_budget"]["mean"] == 0.0
    assert far["kl"]["mean"] > 0.1 and far["tax"] != 0.0
    assert far["over_budget"]["mean"] == pytest.approx(far["utility"]["mean"] - same["utility"]["mean"])
    assert (tmp_path / "methods" / "methods.svg").read_text().startswith("<svg")
    assert summary["table"].count("\nother ") == 3
    assert run(config) == summary
