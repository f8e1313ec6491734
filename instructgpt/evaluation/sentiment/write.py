"""Stage `reviews`: labelled reviews as demonstrations for `sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instructgpt.data.records import to_row, write_jsonl
from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment.reviews import (
    Review,
    demonstration,
    read_reviews,
    review_files,
    split_reviews,
    views,
)
from instructgpt.evaluation.sentiment.settings import ReviewsConfig
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.runtime.checkpoint import final_checkpoint, open_run
from instructgpt.text.tokenizer import Tokenizer


def write(config: ReviewsConfig) -> dict[str, Any]:
    """Write `train.jsonl` and `valid.jsonl`; returns the summary: `train`, `valid` (numbers of reviews).

    Raises:
        ConfigError, CheckpointError, DataError: a flag, the tokenizer or a review can't be used.
    """
    if not config.model or not config.train:
        raise ConfigError("a model or the reviews are missing", "model, train", "name both")
    source = final_checkpoint(config.model)
    reviews = read_reviews(config.train)
    inputs: dict[str, str | Path] = {
        "tokenizer": tokenizer_folder(source) / "tokenizer.json",
        "train": review_files(config.train),
    }
    with open_run(config.out, "reviews", config, inputs) as run:
        if run.finished is not None:
            return run.finished
        tokenizer = Tokenizer.load(tokenizer_folder(source))
        parts = dict(zip(("train", "valid"), split_reviews(reviews, config.valid_share), strict=True))
        for name, part in parts.items():
            write_jsonl(run.folder / f"{name}.jsonl", _rows(tokenizer, part, config.tokens))
        return run.finish({name: len(part) for name, part in parts.items()})


def _rows(tokenizer: Tokenizer, reviews: list[Review], tokens: int) -> list[dict[str, Any]]:
    seen = views(tokenizer, [review.text for review in reviews], tokens)
    return [to_row(demonstration(review, view)) for review, view in zip(reviews, seen, strict=True)]
