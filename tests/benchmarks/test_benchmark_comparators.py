"""The page of the comparators on made-up summaries, and its file: a pipeline to the last key."""

from __future__ import annotations

import time
import tomllib
from typing import Any

import pytest
import torch

from benchmarks import comparators
from instructgpt import pipeline
from instructgpt.evaluation.methods_report import methods_table


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "n": 500}


def summary(gain: float) -> dict[str, Any]:
    """Two methods at equal samples and time, one of them a third time."""
    base = {"kl": interval(0.0), "pretrain_loss": 1.1, "reward": 0.2, "length": 20.0, "eos_rate": 1.0}
    sft = base | {"utility": interval(0.4)}

    def point(method: str, at: str, more: float) -> dict[str, Any]:
        spent = {"step": 12, "samples": 3072.0, "seconds": 40.0}
        found = {"utility": interval(0.4 + more), "over_sft": interval(more), "tax": 0.01}
        return {"method": method, "at": at, **base, **spent, **found, "over_budget": interval(more - gain)}

    points = [point("ppo_ptx", at, gain) for at in ("samples", "seconds")]
    points += [point("dpo", at, gain / 2) for at in ("samples", "seconds", "seconds_with_reward")]
    budget = {"samples": 3072.0, "seconds": 40.0, "reward_seconds": 60.0}
    found = {"budget": budget, "points": points, "sft": sft, "prompts": 500}
    return found | {"table": methods_table(found)}


def test_one_seed_has_intervals_over_prompts() -> None:
    text = comparators.page({"seed-0": summary(0.1)})
    assert "1 seed (seed-0)" in text and "over prompts" in text
    assert "| PPO-ptx | 0.500 [0.450, 0.550] | 0.100 [0.050, 0.150] | 0.000 [-0.050, 0.050] |" in text
    assert text.count("| SFT |") == 3 and text.count("| DPO |") == 3
    assert "at equal time, the reward model's training counted (100.0 s)" in text


def test_several_seeds_have_students_interval() -> None:
    # gains 0.1, 0.2, 0.3: mean 0.2, deviation 0.1; 4.303 * 0.1 / sqrt(3) = 0.248
    text = comparators.page({f"seed-{i}": summary(gain) for i, gain in enumerate((0.1, 0.2, 0.3))})
    assert "3 seeds (seed-0, seed-1, seed-2)" in text and "over seeds" in text
    assert "| PPO-ptx | 0.600 ± 0.248 | 0.200 ± 0.248 | 0.000 ± 0.000 |" in text


def test_a_method_that_misses_a_seed_says_so() -> None:
    other = summary(0.2)
    other["points"] = [point for point in other["points"] if point["method"] != "dpo"]
    assert "| DPO (1 seeds) |" in comparators.page({"a": summary(0.1), "b": other})


def test_seconds_are_those_on_a_core() -> None:
    """The methods read `time.perf_counter`: inside it counts the time on a core, afterwards it is back."""
    before = time.perf_counter
    with comparators.core_seconds():
        assert time.perf_counter is time.process_time and torch.get_num_threads() == 1
    assert time.perf_counter is before


def test_over_seeds_by_hand() -> None:
    assert comparators.over_seeds([0.5]) == (0.5, None)
    mean, half = comparators.over_seeds([1.0, 3.0])  # deviation sqrt(2), over sqrt(2) is 1
    assert mean == 2.0 and half == pytest.approx(12.706)


def test_the_file_is_a_pipeline_to_the_last_key(tmp_path, monkeypatch) -> None:
    """Reading it checks every key of every stage; nothing runs."""
    seen: list[Any] = []
    monkeypatch.setattr(pipeline, "_execute", lambda plan, until, verb: seen.append(plan) or {})
    pipeline.run(pipeline.RunConfig(file=str(comparators.FILE), data="demo", out=str(tmp_path)))
    (plan,) = seen
    names = [stage.name for stage in plan.stages]
    assert names == ["ppo_ptx", "ppo", "a2c", "rloo", "grpo", "distill", "dpo", "methods"]
    assert plan.summary == "methods" and plan.data == "demo"


def test_the_file_gives_all_methods_the_same_budget_and_price() -> None:
    """At least PPO-ptx's 3,072 replies each; beta 0.2 wherever it is a price of KL in reward units."""
    stages = {
        stage.get("name", stage["verb"]): stage
        for stage in tomllib.loads(comparators.FILE.read_text(encoding="utf-8"))["stage"]
    }
    budget = stages["ppo_ptx"]["iterations"] * stages["ppo_ptx"]["batch"]
    assert budget == 3072
    for name in ("ppo", "a2c", "rloo", "grpo", "distill"):
        stage = stages[name]
        assert stage["iterations"] * stage["batch"] >= budget, name
        assert budget % (stage["save_every"] * stage["batch"]) == 0, name  # a checkpoint at the budget
        for key in ("model", "reward", "prompts", "max_new", "missing_eos_penalty"):
            assert stage[key] == stages["ppo_ptx"][key], (name, key)
    assert {stages[name]["beta"] for name in ("ppo_ptx", "ppo", "a2c", "rloo", "dpo")} == {0.2}
