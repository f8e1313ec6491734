"""examples/compare.toml from end to end, on the models of a quick demo, with some rounds of each method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instructgpt.pipeline import DemoConfig, RunConfig, demo, run

FILE = Path(__file__).parent.parent.parent / "examples" / "compare.toml"
SHORT = (
    "ppo_ptx.iterations=2", "ppo_ptx.batch=16", "ppo.iterations=3", "ppo.batch=16", "a2c.iterations=4",
    "a2c.batch=16", "a2c.save_every=1", "rloo.iterations=4", "rloo.batch=16", "rloo.save_every=1",
    "grpo.iterations=3", "grpo.batch=16", "distill.iterations=4", "distill.batch=16", "dpo.epochs=0.5",
    "dpo.batch=4", "dpo.save_every=1", "methods.count=20",
)  # fmt: skip


@pytest.mark.slow
def test_the_example_runs_and_measures_every_method(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INSTRUCTGPT_PROGRESS", "0")
    demo(DemoConfig(out=str(tmp_path / "demo"), quick=True, until="reward"))
    out = tmp_path / "compare"
    summary = run(RunConfig(file=str(FILE), data=str(tmp_path / "demo"), out=str(out), set=SHORT))
    assert summary["budget"]["samples"] == 32 and summary["budget"]["reward_seconds"] > 0
    at_samples = [point["method"] for point in summary["points"] if point["at"] == "samples"]
    assert at_samples == ["ppo_ptx", "ppo", "a2c", "rloo", "grpo", "distill", "dpo"]
    for point in summary["points"]:
        assert 0 <= point["utility"]["low"] <= point["utility"]["high"] <= 1, point["method"]
        assert point["samples"] <= 32 or point["at"] != "samples"
    assert (out / "methods" / "methods.svg").exists()
    lineage = json.loads((out / "lineage.json").read_text())
    assert [stage["name"] for stage in lineage["stages"]][-1] == "methods"
