"""What a run computes with: measured once, kept, obeyed when forced; no speed of this machine matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from instructgpt.errors import CheckpointError, ConfigError
from instructgpt.model import linear
from instructgpt.model.config import ModelConfig
from instructgpt.model.heads import LanguageModel, new_language_model, new_scalar_model
from instructgpt.runtime import precision
from instructgpt.runtime.precision import Shape, choose, settle


@pytest.fixture(autouse=True)
def default_route():
    yield
    linear.route([])


def model(width: int = 256) -> LanguageModel:
    config = ModelConfig.gpt2(vocab_size=50, width=width, layers=1, heads=4, context=16)
    return new_language_model(config, seed=0)


# The products of a GPT-2 block of width 256, (out, in), and its unembedding.
QKV, OUTPUT, UP, DOWN, HEAD = (768, 256), (256, 256), (1024, 256), (256, 1024), (50, 256)


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: dict[Shape, tuple[float, float, float]]) -> list[Shape]:
    """Let the measured seconds (oneDNN, PyTorch's own, bfloat16) be these; (1, 2, 1) where none are said."""
    asked: list[Shape] = []

    def measure(shape: Shape, half: bool) -> tuple[float, float, float]:
        asked.append(shape)
        found = seconds.get(shape, (1.0, 2.0, 1.0))
        return found if half else (*found[:2], 0.0)

    monkeypatch.setattr(precision, "_measure", measure)
    return asked


def test_faster_is_taken_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # float32 by the faster kernel: 1 + 1 + 1 + 1 + 4 = 8; bfloat16 1 + 1 + 1 + 1 + 1 = 5: 1.6 times.
    asked = pretend(monkeypatch, {HEAD: (5.0, 4.0, 1.0)})
    assert settle(tmp_path, "auto", model()) == torch.bfloat16
    assert sorted(asked) == sorted([QKV, OUTPUT, UP, DOWN, HEAD])
    kept = json.loads((tmp_path / "choices.json").read_text())
    assert kept["dtype"] == "bfloat16" and kept["own_product"] == [[50, 256]] and "1.60" in kept["why"]
    # The machine has changed its mind, the run has not.
    asked = pretend(monkeypatch, {HEAD: (1.0, 9.0, 99.0)})
    linear.route([])
    assert settle(tmp_path, "auto", model()) == torch.bfloat16
    assert asked == [] and linear._own == {HEAD}
    assert settle(tmp_path / "other", "auto", model()) == torch.float32
    assert linear._own == frozenset()


def test_little_gain_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.24 times as fast does not pay for the rounding; 1.25 does."""
    every = (QKV, OUTPUT, UP, DOWN, HEAD)
    for seconds, dtype in ((1.24, "float32"), (1.25, "bfloat16")):
        pretend(monkeypatch, {shape: (seconds, 9.0, 1.0) for shape in every})
        assert choose("auto", model()).dtype == dtype


def test_what_is_asked_for_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {DOWN: (2.0, 1.0, 0.01)})
    assert settle(tmp_path / "a", "float32", model()) == torch.float32
    assert linear._own == {DOWN}  # the kernels of float32 are still chosen
    asked.clear()
    assert settle(tmp_path / "b", "bfloat16", model()) == torch.bfloat16
    assert asked == [] and linear._own == frozenset()
    with pytest.raises(ConfigError, match="float16"):
        settle(tmp_path / "c", "float16", model())
    assert not (tmp_path / "c").exists()


def test_narrow_models_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo, the golden runs and the tests compute the same everywhere."""
    asked = pretend(monkeypatch, {})
    assert settle(tmp_path, "auto", model(width=252)) == torch.float32
    assert asked == [] and json.loads((tmp_path / "choices.json").read_text())["own_product"] == []
    assert settle(tmp_path / "forced", "bfloat16", model(width=128)) == torch.bfloat16


def test_a_scalar_model_has_no_vocabulary_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {})
    choose("auto", new_scalar_model(model().config, seed=0))
    assert sorted(asked) == sorted([QKV, OUTPUT, UP, DOWN])


def test_a_broken_record_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_text('{"dtype": "bfloat16"}')
    with pytest.raises(CheckpointError, match=r"choices\.json"):
        settle(tmp_path, "auto", model())


def test_it_does_measure() -> None:
    """Really, on this machine: positive seconds, and the kernel route is put back by `settle` alone."""
    found = precision._measure((3000, 64), half=True)
    assert len(found) == 3 and all(0 < seconds < 60 for seconds in found)
    assert precision._measure((64, 64), half=False)[2] == 0.0
