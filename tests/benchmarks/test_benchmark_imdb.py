"""The page of the sentiment experiment: numbers, verdict, and the figures that articles quote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import imdb_seeds
from benchmarks.imdb import page
from instructgpt.errors import DataError
from instructgpt.evaluation.sentiment.lstm import Sequences
from instructgpt.evaluation.sentiment.systems import Data, Side, System
from instructgpt.recipe import read_plan


def estimate(mean: float, room: float = 0.01) -> dict[str, float]:
    return {"mean": mean, "low": mean - room, "high": mean + room, "n": 1500}


def system(accuracy: float, **more: Any) -> dict[str, Any]:
    names = ("accuracy", "precision", "recall", "f1", "loss")
    return {
        **{name: estimate(accuracy) for name in names},
        "train_loss": 0.1,
        "seeds": 3,
        "seconds": 60.0,
        **more,
    }


def summary(above: float) -> dict[str, Any]:
    """The tuned model is `above` the baselines, give or take 0.01."""
    difference = {
        name: {key: estimate(above) for key in ("accuracy", "f1", "loss")}
        for name in ("sft_over_zero_shot", "sft_over_logistic", "sft_over_lstm")
    }
    return {
        "reviews": {"train": 5700, "valid": 300, "test": 1500},
        "data": {"train": "aa", "test": "bb"},
        "systems": {
            "sft": system(0.9, train_seconds=[3600.0, 3630.0]),
            "zero_shot": system(0.7, seeds=1, train_loss=None),
            "logistic": system(0.885, cost=10.0, by_cost={"1": 0.3, "10": 0.28}, features=130000),
            "lstm": system(0.8, epoch=[4, 5, 4], vocabulary=9000),
        },
        "difference": difference,
        "difference_by_film": difference,
        "above_both": above > 0.01,
    }


@pytest.mark.parametrize(
    ("above", "said"), [(0.015, "**Holds**"), (0.005, "(+0.005, within the noise)"), (-0.02, "(-0.020)")]
)
def test_the_verdict_is_the_intervals(above: float, said: str) -> None:
    text = page(summary(above), {})
    verdict = text.split("## Against the baselines")[1].split("|")[0]
    assert said in verdict
    assert verdict.count("logistic regression") == (0 if above > 0.01 else 1)


def test_quoted_figures_stand_beside_ours_and_say_what_they_are() -> None:
    text = page(summary(0.015), {"seed-0": "2026-11-23, 2 cores"})
    assert "6,000 training reviews" in text and "1,500 test reviews" in text
    quoted = text.split("## What articles quote")[1]
    assert "not reproducible from their source" in quoted
    assert "| logistic regression | 0.847 | – | logistic regression on TF-IDF | 0.885 | 0.885 |" in quoted
    assert "| RNN | 0.865 | – | LSTM | 0.800 | 0.800 |" in quoted
    assert "| GPT-style, instruction-tuned | 0.882 | 0.874 |" in quoted
    assert "60.0, 60.5" in quoted and "C = 10" in quoted and "epochs 4, 5, 4" in quoted
    assert "| SmolLM2-135M-Instruct, asked as it is | 1 |" in text
    assert "- `seed-0`: 2026-11-23, 2 cores" in text and "have not been run" not in text


def test_seeds_that_are_missing_are_named() -> None:
    found = summary(0.015)
    found["systems"]["sft"]["seeds"] = 1
    assert "**2 of 3 seeds have not been run yet.**" in page(found, {})


def answers(*rows: list[float], **about: Any) -> System:
    curve = [{"epoch": 1.0, "train_loss": 0.2, "test_loss": 0.3}]
    return System(np.array(rows), 0.25 * len(rows), [curve] * len(rows), 10.0, {"model": "aa"}, about)


@pytest.fixture
def data() -> Data:
    nothing = Side([], [], Sequences([], np.zeros(0)))
    return Data(nothing, nothing, nothing, {"train": "aa", "test": "bb"})


SURE = [1e-9, 1 - 1e-9, 0.3]


@pytest.fixture
def files(data: Data, tmp_path: Path) -> Path:
    """Answers of two seeds from files of their own, and the baselines'."""
    way = imdb_seeds.tuning(0)
    first = {"sft": answers([0.1, 0.9, 0.5001], train_seconds=[60.0]), "lstm": answers([0.2, 0.7, 0.6])}
    second = {"sft": answers(SURE, train_seconds=[70.0]), "lstm": answers([0.3, 0.8, 0.4])}
    baselines = {"zero_shot": answers([0.5, 0.5, 0.5]), "logistic": answers([0.4, 0.6, 0.1], cost=3.0)}
    imdb_seeds.keep(tmp_path / "seed-0.json", data, first, way)
    imdb_seeds.keep(tmp_path / "seed-1.json", data, second, way)
    imdb_seeds.keep(tmp_path / "baselines.json", data, baselines)
    return tmp_path


def read(files: Path, data: Data) -> dict[str, imdb_seeds.Kept]:
    return {path.stem: imdb_seeds.kept(path, data) for path in sorted(files.glob("*.json"))}


def test_kept_seeds_are_joined_in_order(data: Data, files: Path) -> None:
    """A loss stays what it was, however sure the answer."""
    found = imdb_seeds.joined(read(files, data))
    assert list(found) == ["sft", "zero_shot", "logistic", "lstm"]
    sft = found["sft"]
    np.testing.assert_allclose(sft.probabilities, [[0.1, 0.9, 0.5001], SURE], atol=2e-5)
    np.testing.assert_allclose(np.log(sft.probabilities[1]), np.log(SURE), atol=1e-4)
    assert sft.about["train_seconds"] == [60.0, 70.0] and found["logistic"].about["cost"] == 3.0
    assert (sft.seconds, sft.train_loss, len(sft.curves)) == (20.0, 0.25, 2)
    assert found["lstm"].probabilities.shape == (2, 3)


def test_what_does_not_belong_together_is_not_joined(data: Data, files: Path) -> None:
    with pytest.raises(DataError, match="about other reviews"):
        imdb_seeds.kept(files / "seed-0.json", replace(data, identity={"train": "cc"}))
    seeds = {name: file for name, file in read(files, data).items() if name != "baselines"}
    with pytest.raises(DataError, match="no answers of zero_shot, logistic yet"):
        imdb_seeds.joined(seeds)
    sft = {"sft": answers([0.1, 0.2, 0.3])}
    imdb_seeds.keep(files / "seed-2.json", data, sft, imdb_seeds.tuning(2, ["sft_2.lr=1e-3"]))
    with pytest.raises(DataError, match="seed-2 was tuned with other settings than seed-0"):
        imdb_seeds.joined(read(files, data))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sft": 1}'])
def test_a_damaged_file_is_named(data: Data, tmp_path: Path, text: str) -> None:
    (tmp_path / "seed-0.json").write_text(text)
    with pytest.raises(DataError, match=r"can't be read.*seed-0\.json.*from git"):
        imdb_seeds.kept(tmp_path / "seed-0.json", data)


def test_all_seeds_are_tuned_alike() -> None:
    assert imdb_seeds.tuning(0) == imdb_seeds.tuning(1) == imdb_seeds.tuning(2)
    assert imdb_seeds.tuning(1, ["sft_1.lr=1e-3", "sft_0.lr=1"])["changes"] == ["lr=1e-3"]


def test_certain_answers_have_log_odds() -> None:
    assert imdb_seeds.log_odds(np.array([0.0, 0.5, 1.0])).tolist() == [-36.0, 0.0, 36.0]


def test_a_seed_needs_no_stage_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []
    monkeypatch.setattr(imdb_seeds, "run", ran.append)
    changes = ["sft_1.lr=1e-5", "sft_0.lr=1e-4"]
    assert imdb_seeds.stages(["sft_1"], "data", tmp_path, changes) == tmp_path / "sft_1"
    assert imdb_seeds.stages([], "data", tmp_path) == tmp_path / "reviews"
    assert [settings.set for settings in ran] == [("sft_1.lr=1e-5",), ()]
    plan = read_plan(Path(ran[0].file), str(tmp_path), 0, [], "data", 1)
    assert [stage.name for stage in plan.stages] == ["base", "reviews", "sft_1"]
