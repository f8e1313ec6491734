"""Accuracy, precision, recall, F1 and loss of a two-class model, averaged over its seeds.

A review's record holds its label and one probability of "positive" a seed: `label`, `p0`, `p1`, ... So the
review is what a bootstrap draws again, with the answers of all seeds and of all models to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from instructgpt.errors import DataError
from instructgpt.evaluation.suite.task import Metric

Array = NDArray[np.float64]
_TINY = np.finfo(np.float64).eps


def figures(labels: Array, probabilities: Array) -> dict[str, float]:
    """Every measure, averaged over seeds.

    Args:
        labels: (n,) of 0 and 1; 1 is the class that precision and recall are about.
        probabilities: of class 1, (S, n), a row a seed; above 0.5 is a prediction of it.

    Returns:
        `accuracy`, `precision`, `recall`, `f1`, and `loss`: -log of the label's probability, nats a review.
        Without a single prediction of class 1 precision is 0 (scikit-learn's `zero_division=0`).

    Raises:
        DataError: the numbers of labels and probabilities differ, or there are none.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels) or not probabilities.size:
        raise DataError(
            f"{len(labels)} labels do not go with probabilities of shape {probabilities.shape}",
            cure="give one probability a review and seed",
        )
    true, said = labels == 1, probabilities > 0.5
    hits = (said & true).sum(1)  # (S,)
    predicted, positives = said.sum(1), true.sum()
    right = np.where(true, probabilities, 1 - probabilities)
    return {
        "accuracy": float((said == true).mean()),
        "precision": float((hits / np.maximum(predicted, 1)).mean()),
        "recall": float((hits / max(positives, 1)).mean()),
        "f1": float((2 * hits / np.maximum(predicted + positives, 1)).mean()),
        "loss": float(-np.log(np.clip(right, _TINY, 1.0)).mean()),
    }


def _combine(columns: Mapping[str, np.ndarray], name: str) -> float:
    seeds = sorted(key for key in columns if key[:1] == "p" and key[1:].isdecimal())
    return figures(columns["label"], np.stack([columns[key] for key in seeds]))[name]


def _accuracy(columns: Mapping[str, np.ndarray]) -> float:
    return _combine(columns, "accuracy")


def _precision(columns: Mapping[str, np.ndarray]) -> float:
    return _combine(columns, "precision")


def _recall(columns: Mapping[str, np.ndarray]) -> float:
    return _combine(columns, "recall")


def _f1(columns: Mapping[str, np.ndarray]) -> float:
    return _combine(columns, "f1")


def _loss(columns: Mapping[str, np.ndarray]) -> float:
    return _combine(columns, "loss")


METRICS = (
    Metric("accuracy", _accuracy),
    Metric("precision", _precision),
    Metric("recall", _recall),
    Metric("f1", _f1),
    Metric("loss", _loss, better="lower", unit="nats/review"),
)
"""The first is the headline; all are averages over the seeds that a record holds."""


def scores(label: int, probabilities: Array) -> dict[str, float]:
    """A record's numbers: the label and the probability of "positive" under each seed (S,)."""
    return {"label": float(label)} | {f"p{seed}": float(value) for seed, value in enumerate(probabilities)}
