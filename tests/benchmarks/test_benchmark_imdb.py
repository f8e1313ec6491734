"""The page of the sentiment experiment: numbers, verdict, and the figures that articles quote."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.imdb import page


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
    ("above", "said"), [(0.015, "**Holds**"), (0.005, "within the noise"), (-0.02, "by 0.020")]
)
def test_the_verdict_is_the_intervals(above: float, said: str) -> None:
    text = page(summary(above), Path("runs/imdb"))
    verdict = text.split("## Against the baselines")[1].split("|")[0]
    assert said in verdict
    assert verdict.count("logistic regression") == (0 if above > 0.01 else 1)


def test_quoted_figures_stand_beside_ours_and_say_what_they_are() -> None:
    text = page(summary(0.015), Path("runs/imdb"))
    assert "6,000 training reviews" in text and "1,500 test reviews" in text
    quoted = text.split("## What articles quote")[1]
    assert "not reproducible from their source" in quoted
    assert "| logistic regression | 0.847 | – | logistic regression on TF-IDF | 0.885 | 0.885 |" in quoted
    assert "| RNN | 0.865 | – | LSTM | 0.800 | 0.800 |" in quoted
    assert "| GPT-style, instruction-tuned | 0.882 | 0.874 |" in quoted
    assert "60.0, 60.5" in quoted and "C = 10" in quoted and "epochs 4, 5, 4" in quoted
    assert "| SmolLM2-135M-Instruct, asked as it is | 1 |" in text
