"""Phases add up by a clock that is set by hand; formulas of operations agree with PyTorch's own counter."""

import dataclasses
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from instructgpt.cli import VERBS
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model, new_scalar_model
from instructgpt.runtime import flops, profile
from instructgpt.runtime.checkpoint import open_run
from instructgpt.runtime.metrics import read_metrics
from instructgpt.runtime.profile import Profile, phase, work

TRAINING = ("pretrain", "sft", "reward", "ppo", "dpo", "rloo", "grpo", "a2c", "distill")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that `profile` reads; a test moves it on."""
    now = [100.0]
    monkeypatch.setattr(profile.time, "perf_counter", lambda: now[0])
    return now


def spend(clock: list[float], seconds: float) -> None:
    clock[0] += seconds


def test_the_outer_phase_gets_what_is_left(clock: list[float]) -> None:
    found = Profile()
    with found.active():
        spend(clock, 5.0)
        found.start()
        spend(clock, 0.25)
        with phase("update"):
            spend(clock, 1.0)
            work(30.0)
            for seconds in (2.0, 3.0):
                with phase("ptx"):
                    spend(clock, seconds)
                    work(7.0)
            spend(clock, 0.5)
    found.row()
    seconds = {name: spent.seconds for name, spent in found.phases.items()}
    assert seconds == {"start": 5.0, "other": 0.25, "update": 1.5, "ptx": 5.0}
    assert {name: spent.flops for name, spent in found.phases.items() if spent.flops} == {
        "update": 30.0,
        "ptx": 14.0,
    }
    assert found.phases["ptx"].times == 2


def test_a_row_holds_what_came_since_the_last(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "peak_flops", lambda device, dtype: 50.0)
    found = Profile()
    with found.active():
        found.start()
        with phase("data"):
            spend(clock, 1.0)
        with phase("update"):
            spend(clock, 3.0)
            work(100.0)
        with phase("evaluate"):
            spend(clock, 9.0)
            work(1e6)
        # 100 operations in 4 seconds, of a peak of 50 a second; evaluating is not in it.
        assert found.row() == {
            "seconds_data": 1.0,
            "seconds_update": 3.0,
            "seconds_evaluate": 9.0,
            "mfu": 100 / 4 / 50,
        }
        assert found.row() == {}
        with phase("save"):
            spend(clock, 2.0)
        assert found.row() == {"seconds_save": 2.0}


def test_outside_of_a_run_phases_do_nothing(clock: list[float]) -> None:
    inner, outer = Profile(), Profile()
    with phase("update"):
        work(1.0)
    with outer.active():
        with inner.active(), phase("update"):
            spend(clock, 1.0)
        with phase("update"):
            spend(clock, 4.0)
    assert inner.phases["update"].seconds == 1.0
    assert outer.phases["update"].seconds == 4.0


def test_throughput_counts_what_a_method_costs() -> None:
    timing = {
        "seconds_rollout": 2.0,
        "seconds_update": 1.0,
        "seconds_ptx": 1.0,
        "seconds_save": 50.0,
        "mfu": 0.5,
    }
    assert profile.throughput(timing, 12, 6) == {
        "tokens_per_second": 3.0,
        "rollout_tokens_per_second": 3.0,
        **timing,
    }
    assert "rollout_tokens_per_second" not in profile.throughput({"seconds_update": 2.0}, 12)


def test_a_phase_ends_with_an_error_too(clock: list[float]) -> None:
    found = Profile()
    with found.active():
        with pytest.raises(ValueError), phase("update"):
            spend(clock, 1.0)
            raise ValueError
        spend(clock, 2.0)
    found.row()
    assert {name: spent.seconds for name, spent in found.phases.items()} == {"update": 1.0, "other": 2.0}


def test_the_table(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "peak_flops", lambda device, dtype: 40e9)
    found = Profile(dtype=torch.bfloat16)
    with found.active():
        found.start()
        for _ in range(2):
            with phase("update"):
                spend(clock, 1.5)
                work(15e9)
        spend(clock, 1.0)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.table().splitlines()[2:-2]]
    assert rows == [
        ["start", "0.000", "0.0 %", "1", "0.00", "", "", ""],
        ["update", "3.000", "75.0 %", "2", "1500.00", "30.0", "10.0", "25.0 %"],
        ["other", "1.000", "25.0 %", "", "", "", "", ""],
        ["all", "4.000", "100.0 %", "", "", "30.0", "7.5", "18.8 %"],
    ]
    assert "40 GFLOP/s, a square bfloat16 product on cpu" in found.table()


CONFIGS = {
    "gpt2": ModelConfig.gpt2(vocab_size=50, width=16, layers=2, heads=2, context=32),
    "llama": ModelConfig.llama(
        vocab_size=40, width=16, layers=3, heads=4, kv_heads=2, ffn_width=24, context=32, tied=False
    ),
}


def counted_products(model: LanguageModel, tokens: int, rows: int, train: bool) -> float:
    """What PyTorch's counter sees of the layers' products; attention's own are not in the formula either."""
    model = model.double()  # so that the products take PyTorch's usual way
    ids = torch.arange(tokens) % 30
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        logits = model.logits(model(ids, torch.arange(tokens), [tokens])[:rows])
        if train:
            logits.sum().backward()
    found = counter.get_flop_counts()["Global"]
    return float(sum(count for name, count in found.items() if str(name) in ("aten.mm", "aten.addmm")))


@pytest.mark.parametrize("family", CONFIGS)
def test_operations_are_those_that_pytorch_counts(family: str) -> None:
    model = new_language_model(CONFIGS[family], seed=0)
    assert flops.forward_flops(model, 12, 5) == counted_products(model, 12, 5, train=False)
    assert flops.training_flops(model, 12, 5) == counted_products(model, 12, 5, train=True)


def test_operations_of_a_scalar_model() -> None:
    model = new_scalar_model(CONFIGS["gpt2"], seed=0)
    # 2 blocks of 12 x 16 x 16 weights; the head is a vector of 16.
    assert flops.body_weights(CONFIGS["gpt2"]) == 2 * 12 * 256
    assert flops.forward_flops(model, 10, 3) == 2 * (10 * 6144 + 3 * 16)
    assert flops.training_flops(model, 10, 3) == 6 * (10 * 6144 + 3 * 16)


@dataclasses.dataclass(frozen=True)
class Settings:
    out: str = ""
    lr: float = 0.1
    profile: bool = False
    trace_steps: int = 0


def run(out: Path, **more: Any) -> Iterator[int]:
    """A stage in miniature: two products a step."""
    with open_run(out, "count", Settings(**more), {}) as run:
        for step in run.steps(run.start, 4):
            with phase("update"):
                torch.ones(8, 8) @ torch.ones(8, 8)
                work(2 * 8**3)
            run.log(step + 1, loss=1.0)
            if run.should_save(step + 1):
                run.save(step + 1, lambda folder: (folder / "config.json").write_text("{}"))
            yield step


def test_a_run_tells_where_its_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(run(tmp_path / "r", profile=True, trace_steps=2)) == [0, 1, 2, 3]
    page = (tmp_path / "r/profile.md").read_text()
    assert page.startswith("# count, steps 1 to 4: where the time went\n")
    assert "| update |" in page and "| save |" in page
    assert page.split("\n\n", 1)[1].strip() in capsys.readouterr().err
    events = json.loads((tmp_path / "r/trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count("update") == 2 and "aten::mm" in names
    for row in read_metrics(tmp_path / "r/metrics.jsonl"):
        assert row.keys() == {"step", "seconds_update", "mfu", "loss"}
        assert row["seconds_update"] > 0 and row["mfu"] > 0


def test_without_the_flags_nothing_is_written_and_they_change_no_identity(tmp_path: Path) -> None:
    steps = run(tmp_path / "r")
    next(steps)
    steps.close()
    assert not (tmp_path / "r/profile.md").exists() and not (tmp_path / "r/trace.json").exists()
    assert list(run(tmp_path / "r", profile=True)) == [0, 1, 2, 3]
    assert json.loads((tmp_path / "r/config.json").read_text())["config"] == {"lr": 0.1}


@pytest.mark.parametrize("verb", TRAINING)
def test_every_training_verb_has_the_flags(verb: str) -> None:
    config = getattr(import_module(f"instructgpt.{VERBS[verb].module}"), VERBS[verb].config_class)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    assert defaults["profile"] is False and defaults["trace_steps"] == 0


def test_the_peak_is_measured_once() -> None:
    first = flops.peak_flops(torch.device("cpu"), torch.float32)
    assert first == flops.peak_flops(torch.device("cpu"), torch.float32) > 1e8
