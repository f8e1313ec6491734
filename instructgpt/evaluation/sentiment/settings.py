"""Settings of the sentiment experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment.reviews import VIEW_TOKENS


@dataclass(frozen=True)
class ReviewsConfig:
    """Write labelled reviews as demonstrations: a question about a short view, the label as the answer."""

    model: str = ""
    """Checkpoint or stage folder whose tokenizer measures the views."""
    train: str = ""
    """Training reviews: JSONL with text and label, or a folder of aclImdb."""
    valid_share: float = 0.05
    """Share of them held out, by film, to say when training stops."""
    tokens: int = VIEW_TOKENS
    """Tokens of a review that models see: its first and its last half of them."""
    out: str = ""
    """Folder to write."""

    def __post_init__(self) -> None:
        check_views(self.tokens, self.valid_share)


@dataclass(frozen=True)
class SentimentConfig:
    """Language models beside TF-IDF logistic regression and an LSTM on reviews that none of them has seen."""

    models: tuple[str, ...] = ()
    """NAME=FOLDER each; a name given again is another seed of that model. The verdict is about the first."""
    train: str = ""
    """Reviews that the baselines train on: those that the first model was trained on."""
    test: str = ""
    """Reviews that nothing was trained on."""
    valid_share: float = 0.05
    """Share of the training reviews, by film, that chooses the LSTM's epoch."""
    tokens: int = VIEW_TOKENS
    """Tokens of a review that the language models and the LSTM see; logistic regression sees all of it."""
    seeds: int = 3
    """LSTMs to train."""
    curve: int = 300
    """Test and training reviews on which the loss of every kept checkpoint is taken; 0 = no curve."""
    seed: int = 0
    """First seed of the LSTMs; draws the resamples."""
    out: str = ""
    """Folder to write, or to go on in."""
    device: str = "auto"
    """auto, cpu, cuda, mps; of the language models."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the language models."""

    def __post_init__(self) -> None:
        check_views(self.tokens, self.valid_share)
        if self.seeds < 1 or self.curve < 0:
            raise ConfigError(
                f"seeds is {self.seeds} and curve {self.curve}",
                "--option",
                "give at least one seed, and a number of reviews that is not negative",
            )

    @property
    def checkpoints(self) -> dict[str, list[Path]]:
        """Model -> its folders, one a seed.

        Raises:
            ConfigError: none was named, or one has no name or a baseline's.
        """
        found: dict[str, list[Path]] = {}
        for model in self.models:
            name, equals, folder = model.partition("=")
            folder = folder if equals else name
            name = name if equals else Path(folder).name
            if not name or not folder or name in BASELINES:
                raise ConfigError(
                    f"{model!r} is no NAME=FOLDER", "--models", f"not called {', '.join(BASELINES)}"
                )
            found.setdefault(name, []).append(Path(folder))
        if not found:
            raise ConfigError(
                "no model was named", "--models", "give at least one, as in sft=runs/imdb/sft_0"
            )
        return found


BASELINES: Mapping[str, str] = {
    "logistic": "logistic regression, TF-IDF of words and pairs, whole text",
    "lstm": "LSTM from scratch, the same views",
}
"""What stands beside the language models."""


def check_views(tokens: int, valid_share: float) -> None:
    """Raise a ConfigError where a view can't have so many tokens, or no such share can be held out."""
    if tokens < 2:
        raise ConfigError(f"a view of {tokens} tokens has no two ends", "tokens", "give at least 2")
    if not 0 <= valid_share < 1:
        raise ConfigError(
            f"a share of {valid_share} can't be held out", "valid_share", "give 0 up to, not including, 1"
        )
