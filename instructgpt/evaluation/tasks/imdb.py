"""IMDb (Maas et al. 2011): is a film review positive or negative? By likelihood, without training for it.

`--suite sentiment` is the whole experiment, with training and baselines; this task asks any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment.measures import METRICS, scores
from instructgpt.evaluation.sentiment.reviews import (
    HUB,
    LABELS,
    TEST_FILES,
    TRAIN_FILES,
    found_reviews,
    read_reviews,
)
from instructgpt.evaluation.suite.task import Answer, Choices, Item, Options, Scored, Task, each

_WORDS = "200"
_GAP = " [...] "


def make(options: Options) -> Task:
    """The task; option `words`: as many words of a review are shown, half from its start and half from its
    end (0 = all of it).

    Raises:
        ConfigError: `words` is no number.
    """
    try:
        words = int(options.get("words", _WORDS))
    except ValueError as error:
        raise ConfigError(
            f"words is {options.get('words')!r}", "--option words", "give a whole number, or 0 for all"
        ) from error

    def prompt(item: Item) -> str:
        text = shortened(item.data["text"], words)
        return f"{text}\n\nThis film review is (positive or negative):"

    def ask(item: Item, shots: Sequence[Item]) -> list[Choices]:
        solved = [f"{prompt(shot)} {LABELS[shot.data['label']]}" for shot in shots]
        context = "\n\n".join([*solved, prompt(item)])
        return [Choices(context, tuple(f" {label}" for label in LABELS))]

    return Task(
        name="imdb",
        version=1,
        files=TEST_FILES,
        read=read,
        ask=ask,
        score=each(_judge),
        metrics=METRICS,
        shot_files=TRAIN_FILES,
        hub=HUB,
        source="Maas et al. 2011; the more likely of the two words",
        options=("words",),
    )


def read(files: list[Path]) -> list[Item]:
    """Reviews as items; a film is a group."""
    reviews = read_reviews(found_reviews(files))
    return [Item(r.id, {"text": r.text, "label": r.label}, group=r.movie) for r in reviews]


def shortened(text: str, words: int) -> str:
    """The first and the last `words` / 2 words of a longer text, 0 = all of it."""
    parts = text.split()
    if not words or len(parts) <= words:
        return text
    first = max(1, words // 2)
    return " ".join(parts[:first]) + _GAP + " ".join(parts[len(parts) - max(1, words - first) :])


def _judge(item: Item, answers: Sequence[Answer]) -> Scored:
    (pair,) = answers
    assert isinstance(pair, tuple), "Choices are answered by likelihoods"
    odds = np.clip(pair[0].nats - pair[1].nats, -700.0, 700.0)
    positive = float(1 / (1 + np.exp(odds)))
    label = int(item.data["label"])
    shown = {"prompt": item.data["text"], "gold": LABELS[label], "chosen": LABELS[int(positive > 0.5)]}
    return Scored(scores(label, np.array([positive])), shown)
