"""Multiple choice by likelihood: which answer is the most probable, and is the model right to be sure?

Three rules are in use, and each is reported:

    accuracy         the highest sum of log-probabilities
    accuracy_chars   divided by the answer's length in characters (lm-evaluation-harness, `acc_norm`)
    accuracy_tokens  divided by its length in tokens (arXiv:2203.02155, Appendix E)

Calibration is that of the first rule, with softmax over the sums as probabilities: the expected calibration
error (Guo et al. 2017, arXiv:1706.04599), the Brier score and the nats of the right answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from instructgpt.evaluation.suite.task import Array, Likelihood, Metric, Scored

BINS = 10
"""Equal bins of confidence for the expected calibration error."""


def calibration_error(columns: Mapping[str, Array]) -> float:
    """Mean over items of |confidence - share right| of the item's bin; of the columns `confidence` and
    `accuracy` (n,)."""
    confidence, right = columns["confidence"], columns["accuracy"]
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    sure = np.bincount(place, weights=confidence, minlength=BINS)
    hits = np.bincount(place, weights=right, minlength=BINS)
    return float(np.abs(sure - hits).sum() / len(confidence))


CALIBRATION = (
    Metric("calibration_error", combine=calibration_error, better="lower"),
    Metric("brier", better="lower", unit="squared error"),
    Metric("answer_nats", better="lower", unit="nats/answer"),
)
ACCURACY, ACCURACY_CHARS, ACCURACY_TOKENS = (
    Metric("accuracy"),
    Metric("accuracy_chars"),
    Metric("accuracy_tokens"),
)


def probabilities(likelihoods: Sequence[Likelihood]) -> Array:
    """Softmax over the sums of log-probabilities (choices,)."""
    nats = np.array([likelihood.nats for likelihood in likelihoods])
    weights = np.exp(nats - nats.max())
    normalised: Array = weights / weights.sum()
    return normalised


def choose(prompt: str, choices: Sequence[str], likelihoods: Sequence[Likelihood], gold: int) -> Scored:
    """Scores of one question.

    Args:
        prompt: what was asked, for people.
        choices: the answers as the data set writes them; their lengths are those of `accuracy_chars`.
        likelihoods: of each answer after the prompt.
        gold: number of the right one.
    """
    nats = np.array([likelihood.nats for likelihood in likelihoods])
    characters = np.array([max(1, len(choice)) for choice in choices], dtype=np.float64)
    tokens = np.array([max(1, likelihood.tokens) for likelihood in likelihoods], dtype=np.float64)
    mass = probabilities(likelihoods)
    truth = np.arange(len(choices)) == gold
    chosen = int(nats.argmax())
    scores = {
        "accuracy": float(chosen == gold),
        "accuracy_chars": float((nats / characters).argmax() == gold),
        "accuracy_tokens": float((nats / tokens).argmax() == gold),
        "confidence": float(mass[chosen]),
        "brier": float(((mass - truth) ** 2).sum()),
        "answer_nats": float(-np.log(np.maximum(mass[gold], np.finfo(np.float64).tiny))),
    }
    shown = {
        "prompt": prompt,
        "choices": list(choices),
        "nats": [round(likelihood.nats, 4) for likelihood in likelihoods],
        "chosen": chosen,
        "gold": gold,
    }
    return Scored(scores, shown)
