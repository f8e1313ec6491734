"""The reviews, what models see of them, and every model's probabilities on the test reviews."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment import parts
from instructgpt.evaluation.sentiment.curves import checkpoints_of, seconds_of
from instructgpt.evaluation.sentiment.lstm import LSTMSettings, Sequences
from instructgpt.evaluation.sentiment.measures import Array
from instructgpt.evaluation.sentiment.reviews import (
    Review,
    read_reviews,
    review_files,
    split_reviews,
    views,
)
from instructgpt.evaluation.sentiment.settings import SentimentConfig
from instructgpt.evaluation.suite.models import Handle, open_handle
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.device import pick_device, pick_dtype
from instructgpt.runtime.files import hash_path
from instructgpt.text.tokenizer import Tokenizer

LSTM = LSTMSettings()
"""The second baseline's sizes and schedule."""
Done = Callable[[], None]
Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Side:
    """Some of the reviews: as written, as models see them, and as token ids of that with labels."""

    reviews: list[Review]
    views: list[str]
    sequences: Sequences

    @property
    def labels(self) -> Array:
        """0 or 1 each (n,)."""
        return self.sequences.labels


@dataclass(frozen=True)
class Data:
    """The three sides, and what they depend on."""

    train: Side
    valid: Side
    test: Side
    identity: dict[str, Any]

    def of(self, *keys: str) -> dict[str, Any]:
        """A part of the identity."""
        return {key: self.identity[key] for key in keys}


@dataclass(frozen=True)
class System:
    """A model in all its seeds.

    Attributes:
        probabilities: of "positive" on the test reviews (S, n).
        train_loss: mean over seeds, nats a review; None where it was not taken.
        curves: one a seed, rows of `epoch`, `train_loss`, `test_loss`; empty where there are none.
        seconds: of training the baselines, and of answering.
        identity: what the result depends on.
        about: further facts for the summary.
    """

    probabilities: Array
    train_loss: float | None
    curves: list[Curve]
    seconds: float
    identity: dict[str, Any]
    about: dict[str, Any]


def read_data(config: SentimentConfig) -> Data:
    """The reviews, seen through the tokenizer of the first model.

    Raises:
        ConfigError, DataError, CheckpointError: a flag, a review or the tokenizer can't be used.
    """
    for name in ("train", "test"):
        if not getattr(config, name):
            cure = "give reviews: JSONL with text and label, or a folder of aclImdb"
            raise ConfigError(f"no {name} reviews were named", name, cure)
    first = next(iter(config.checkpoints.values()))[0]
    tokenizer = Tokenizer.load(tokenizer_folder(final_checkpoint(first)))
    train, valid = split_reviews(read_reviews(config.train), config.valid_share)
    sides = [_side(part, tokenizer, config.tokens) for part in (train, valid, read_reviews(config.test))]
    identity = {
        "train": _hash(config.train),
        "test": _hash(config.test),
        "valid_share": config.valid_share,
        "tokens": config.tokens,
        "tokenizer": tokenizer.fingerprint,
    }
    return Data(sides[0], sides[1], sides[2], identity)


def _side(reviews: list[Review], tokenizer: Tokenizer, tokens: int) -> Side:
    seen = views(tokenizer, [review.text for review in reviews], tokens)
    labels = np.array([review.label for review in reviews], dtype=np.float64)
    return Side(reviews, seen, Sequences(tokenizer.encode_batch(seen), labels))


def _hash(path: str) -> str:
    return "+".join(hash_path(part) for part in review_files(path).split(","))


def language(
    config: SentimentConfig, data: Data, store: parts.Store, name: str, folders: list[Path], done: Done
) -> System:
    """A language model, one folder a seed, asked about every test review."""
    found, curves = [], []
    for number, folder in enumerate(folders):
        checkpoint = final_checkpoint(folder)
        identity = data.of("test", "tokens", "tokenizer")
        identity |= {"model": hash_path(checkpoint), "dtype": config.dtype}

        def answers(checkpoint: Path = checkpoint) -> parts.Part:
            return {"probabilities": parts.asked(_open(config, checkpoint), data.test.views).tolist()}

        found.append(store.get(f"{name}-{number}", identity, answers))
        curves.append(_curve(config, data, store, f"{name}-{number}", folder))
        done()
    last = [curve[-1]["train_loss"] for curve in curves if curve]
    trained = [seconds for folder in folders if (seconds := seconds_of(folder)) is not None]
    return System(
        np.array([part["probabilities"] for part in found]),
        sum(last) / len(last) if last else None,
        curves if any(curves) else [],
        sum(part["seconds"] for part in found),
        {**found[0]["identity"], "model": [part["identity"]["model"] for part in found]},
        {"models": [str(folder) for folder in folders], **({"train_seconds": trained} if trained else {})},
    )


def _open(config: SentimentConfig, checkpoint: Path) -> Handle:
    device, dtype = pick_device(config.device), pick_dtype(config.dtype)
    return open_handle(str(checkpoint), device=device, dtype=dtype, chat=True)


def _curve(config: SentimentConfig, data: Data, store: parts.Store, name: str, folder: Path) -> Curve:
    """Loss on the first `curve` test and training reviews at every checkpoint that a stage kept."""
    count, rows = config.curve, []
    for kept in checkpoints_of(folder) if count else ():
        identity = data.of("train", "test", "tokens", "tokenizer", "valid_share")
        identity |= {"model": hash_path(kept.folder), "dtype": config.dtype, "reviews": count}

        def losses(checkpoint: Path = kept.folder) -> parts.Part:
            handle = _open(config, checkpoint)
            return {
                f"{key}_loss": parts.mean_loss(handle, side.views[:count], side.labels[:count])
                for key, side in (("train", data.train), ("test", data.test))
            }

        part = store.get(f"{name}-step-{kept.step:06d}", identity, losses)
        rows.append({"epoch": kept.epoch} | {key: part[key] for key in ("train_loss", "test_loss")})
    return rows


def logistic(data: Data, store: parts.Store, done: Done) -> System:
    """TF-IDF logistic regression on all training reviews, the held-out ones among them: it needs none."""
    train = [*data.train.reviews, *data.valid.reviews]
    part = store.get("logistic", data.of("train", "test"), lambda: parts.logistic(train, data.test.reviews))
    done()
    about = {key: part[key] for key in ("cost", "by_cost", "features")}
    return System(
        np.array([part["probabilities"]]), part["train_loss"], [], part["seconds"], part["identity"], about
    )


def lstm(config: SentimentConfig, data: Data, store: parts.Store, done: Done) -> System:
    """The LSTM, a seed after the other."""
    sides = [side.sequences for side in (data.train, data.valid, data.test)]
    found = []
    for seed in range(config.seed, config.seed + config.seeds):

        def train(seed: int = seed) -> parts.Part:
            return parts.recurrent(sides, seed, LSTM)

        identity = data.identity | {"seed": seed, "settings": asdict(LSTM)}
        found.append(store.get(f"lstm-{seed}", identity, train))
        done()
    kept = [part["curve"][part["epoch"] - 1]["train_loss"] for part in found]
    return System(
        np.array([part["probabilities"] for part in found]),
        sum(kept) / len(kept),
        [part["curve"] for part in found],
        sum(part["seconds"] for part in found),
        {**found[0]["identity"], "seed": [part["identity"]["seed"] for part in found]},
        {"epoch": [part["epoch"] for part in found], "vocabulary": found[0]["vocabulary"]},
    )
