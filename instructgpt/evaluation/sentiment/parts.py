"""What the sentiment experiment computes, part by part, each kept on disk: an interrupted run goes on.

OUT/sentiment/logistic.json, lstm-0.json, MODEL-0.json, MODEL-0-step-000123.json
    {"identity": {...}, "seconds": .., what was found}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.evaluation.sentiment import lstm, tfidf
from instructgpt.evaluation.sentiment.measures import Array
from instructgpt.evaluation.sentiment.reviews import LABELS, Review, question
from instructgpt.evaluation.suite.models import Handle
from instructgpt.evaluation.suite.task import Choices
from instructgpt.runtime.checkpoint import RunChanged
from instructgpt.runtime.files import write_json

Part = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The folder of the parts. A part that is there with the same identity is not computed again."""

    folder: Path

    def get(self, name: str, identity: Mapping[str, Any], make: Callable[[], Part]) -> Part:
        """The part called `name`, with `seconds` added.

        Raises:
            RunChanged: the folder holds that part of other data, settings or models.
        """
        path = self.folder / f"{name}.json"
        if path.exists():
            found: Part = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                f"{key}: {found['identity'].get(key)} -> {identity.get(key)}"
                for key in sorted({*found["identity"], *identity})
                if found["identity"].get(key) != identity.get(key)
            ]
            if changed:
                raise RunChanged(
                    f"{name} was computed with other settings: {'; '.join(changed)}",
                    str(path),
                    "choose another --out, or move the old folder away",
                )
            return found
        start = time.monotonic()
        found = {"identity": dict(identity), **make()}
        found["seconds"] = round(time.monotonic() - start, 2)
        write_json(path, found)
        return found


def logistic(train: Sequence[Review], test: Sequence[Review]) -> Part:
    """TF-IDF and logistic regression: `probabilities` (n,), `train_loss`, `cost`, `by_cost`, `features`."""
    fitted = tfidf.fit(train, test)
    labels = np.array([review.label for review in train])
    right = np.where(labels == 1, fitted.train_probabilities, 1 - fitted.train_probabilities)
    return {
        "probabilities": fitted.probabilities.tolist(),
        "train_loss": float(-np.log(right).mean()),
        "cost": fitted.cost,
        "by_cost": fitted.by_cost,
        "features": fitted.features,
    }


def recurrent(parts: Sequence[lstm.Sequences], seed: int, settings: lstm.LSTMSettings) -> Part:
    """An LSTM on (train, valid, test): the fields of `lstm.Trained`."""
    train, valid, test = parts
    trained = lstm.train_lstm(train, valid, test, seed, settings)
    return asdict(trained) | {"probabilities": trained.probabilities.tolist()}


def asked(handle: Handle, views: Sequence[str]) -> Array:
    """The language model's probability of "positive" for each view (n,), of the two answers it may give."""
    answers = handle.choices([Choices(question(view), LABELS) for view in views])
    nats = np.array([[answer.nats for answer in pair] for pair in answers])  # (n, 2)
    found: Array = 1 / (1 + np.exp(np.clip(nats[:, 0] - nats[:, 1], -700, 700)))
    return found


def mean_loss(handle: Handle, views: Sequence[str], labels: Array) -> float:
    """Mean -log of the label's probability, nats a review."""
    p = asked(handle, views)
    return float(-np.log(np.clip(np.where(labels == 1, p, 1 - p), np.finfo(float).eps, 1.0)).mean())
