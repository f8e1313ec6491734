"""The self-test: it passes here, and each stage that runs without learning fails it."""

from __future__ import annotations

from pathlib import Path

import pytest

from instructgpt.doctor import self_test as module
from instructgpt.doctor.self_test import Check, run_self_test

STAGES = ("_pretrain", "_sft", "_reward", "_ppo", "_generate")


@pytest.mark.slow
def test_every_stage_learns_here() -> None:
    found = run_self_test("cpu")
    assert found.failures == [], found.checks
    assert [check.stage for check in found.checks] == [
        "pretrain", "sft", "sft", "reward", "ppo", "ppo", "generate",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("idle", ["pretrain", "sft", "train_reward", "ppo"])
def test_a_stage_that_does_not_learn_fails(idle: str, monkeypatch) -> None:
    """The stage runs with a learning rate of next to nothing, as after a broken optimizer step."""
    train = getattr(module, idle)

    def without_learning(config):
        import dataclasses

        rates = {"lr": 1e-12} | ({"value_lr": 1e-12} if idle == "ppo" else {})
        return train(dataclasses.replace(config, **rates))

    monkeypatch.setattr(module, idle, without_learning)
    stages = {"train_reward": "reward"}
    assert any(failure.startswith(stages.get(idle, idle)) for failure in run_self_test("cpu").failures)


def without_stages(monkeypatch, **given) -> list[str]:
    """Stages that do nothing but those given; returns the list of those that ran."""
    ran: list[str] = []

    def stage(name):
        def work(folder: Path, device: str) -> list[Check]:
            ran.append(name)
            return given[name](folder) if name in given else []

        return work

    for name in STAGES:
        monkeypatch.setattr(module, name, stage(name))
    return ran


def test_an_error_ends_the_test_and_is_reported(monkeypatch) -> None:
    def breaks(folder: Path) -> list[Check]:
        raise RuntimeError("no kernel\n  for this")

    ran = without_stages(monkeypatch, _reward=breaks)
    found = run_self_test("cpu")
    assert found.error == "reward ended with RuntimeError: no kernel for this"
    assert ran == ["_pretrain", "_sft", "_reward"] and found.failures == [found.error]


def test_nothing_is_left_behind(monkeypatch) -> None:
    seen: list[Path] = []

    def look(folder: Path) -> list[Check]:
        assert (folder / "tokenizer" / "tokenizer.json").is_file()
        seen.append(folder)
        return [Check("sft", "a", 1.0, "at least", 1.0), Check("sft", "b", 1.0, "at most", 0.5)]

    without_stages(monkeypatch, _sft=look)
    found = run_self_test("cpu")
    assert found.failures == ["sft: b"] and not seen[0].exists()


def test_what_is_no_number_holds_no_bound() -> None:
    for side in ("at least", "at most"):
        assert not Check("s", "n", float("nan"), side, 0.5).holds
