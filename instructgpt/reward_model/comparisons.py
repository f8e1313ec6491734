"""Rankings as token ids: one element is one prompt with its K replies, each of which is forwarded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from instructgpt.data.collate import shared_length
from instructgpt.data.jsonl import expand
from instructgpt.data.records import RankedResponse, Ranking, read_rankings
from instructgpt.data.splits import split
from instructgpt.errors import ConfigError, DataError
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.seeds import derive_seed
from instructgpt.text.chat import render_reply
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Comparison:
    """One prompt's ranked replies.

    Attributes:
        sequences: prompt, reply and end-of-turn of each of the K replies; the score is read at the last id.
        ranks: K ranks, 1 is best, equal ranks are ties.
    """

    sequences: list[list[int]]
    ranks: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(map(len, self.sequences))

    @cached_property
    def computed_tokens(self) -> int:
        """Tokens that are computed for them: what they share counts once."""
        return self.tokens - (len(self.sequences) - 1) * shared_length(self.sequences)

    @property
    def pairs(self) -> int:
        """Pairs of replies that are not tied."""
        return sum(a < b for a in self.ranks for b in self.ranks)


@dataclass(frozen=True)
class Rankings:
    """What a run trains on and is measured on.

    Attributes:
        train, held_out: encoded rankings with at least one untied pair.
        train_texts, held_out_texts: the same as texts, for the baselines.
        dropped_replies: replies left out because they are too long.
        dropped_rankings: rankings left out because fewer than two replies, or only ties, were left.
    """

    train: list[Comparison]
    held_out: list[Comparison]
    train_texts: list[Ranking]
    held_out_texts: list[Ranking]
    dropped_replies: int
    dropped_rankings: int


def inputs_of(config: RewardConfig) -> tuple[Path, dict[str, str | Path]]:
    """The model's folder and everything that the result depends on.

    Raises:
        ConfigError: no model or no data was named.
        CheckpointError, DataError: they are not there.
    """
    for name, what in (("model", "a language model's folder"), ("data", "a JSONL file of rankings")):
        if not getattr(config, name):
            raise ConfigError(f"no {name} was named", f"--{name}", f"give {what}")
    source = final_checkpoint(config.model)
    inputs: dict[str, str | Path] = {"model": source}
    for name in ("data", "validation", "demonstrations"):
        value = getattr(config, name)
        inputs[name] = ",".join(map(str, expand(value))) if value else ""
    return source, inputs


def read_parts(config: RewardConfig) -> tuple[list[Ranking], list[Ranking]]:
    """The rankings that the flags name: (to train on, held out). No user's prompts are cut between the two.

    Raises:
        DataError: the files are missing, empty or malformed.
    """
    records = read_rankings(config.data)
    if config.validation:
        return records, read_rankings(config.validation)
    parts = split(records, config.validation_share, seed=config.seed)
    return parts["train"], parts["valid"] + parts["test"]


def read_comparisons(config: RewardConfig, tokenizer: Tokenizer, context: int) -> Rankings:
    """Read and encode the rankings that the flags name.

    Raises:
        DataError: the files are missing, empty or malformed, or nothing is left to train on.
    """
    records, held_out = read_parts(config)
    limit = longest(config, context)
    train, train_texts, replies = encode(records, tokenizer, limit)
    measured, held_out_texts, held_out_replies = encode(held_out, tokenizer, limit)
    if not train:
        raise DataError(
            f"none of {len(records)} rankings has two replies of different rank that fit into {limit} tokens",
            config.data,
            "give rankings that are not all ties, shorter ones, or a model with a longer context",
        )
    dropped = len(records) + len(held_out) - len(train) - len(measured)
    return Rankings(train, measured, train_texts, held_out_texts, replies + held_out_replies, dropped)


def longest(config: RewardConfig, context: int) -> int:
    """Tokens that a prompt with its reply may have."""
    return min(config.max_length or context, context)


def encode(
    records: Iterable[Ranking], tokenizer: Tokenizer, limit: int
) -> tuple[list[Comparison], list[Ranking], int]:
    """Rankings as ids and the same as texts, without replies beyond `limit` tokens and without rankings that
    then have no untied pair; and how many replies were left out."""
    comparisons: list[Comparison] = []
    texts: list[Ranking] = []
    dropped = 0
    for record in records:
        kept: list[tuple[RankedResponse, list[int]]] = []
        for response in record.responses:
            ids = render_reply(tokenizer, record.prompt.messages, response.text).ids
            if len(ids) <= limit:
                kept.append((response, ids))
        dropped += len(record.responses) - len(kept)
        comparison = Comparison([ids for _, ids in kept], [response.rank for response, _ in kept])
        if comparison.pairs:
            comparisons.append(comparison)
            texts.append(Ranking(record.prompt, tuple(response for response, _ in kept), record.labeler))
    return comparisons, texts, dropped


class Stream:
    """The rankings of every epoch behind one another, each epoch in its own order, cut into batches.

    Which rankings step n holds follows from (seed, n) alone, so that resuming needs no cursor. The last step
    may hold fewer: in one epoch nothing is seen twice.
    """

    def __init__(self, comparisons: Sequence[Comparison], batch: int, seed: int, epochs: float) -> None:
        self._comparisons, self._batch, self._seed = comparisons, batch, seed
        self._total = max(1, round(epochs * len(comparisons)))
        self._epoch = -1
        self._order: list[int] = []

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return -(-self._total // self._batch)

    def batch(self, step: int) -> list[Comparison]:
        """The rankings of step `step` (0-based)."""
        places = range(step * self._batch, min((step + 1) * self._batch, self._total))
        return [self._comparisons[self._at(*divmod(place, len(self._comparisons)))] for place in places]

    def _at(self, epoch: int, rank: int) -> int:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "reward order", epoch))
            self._order = torch.randperm(len(self._comparisons), generator=generator).tolist()
            self._epoch = epoch
        return self._order[rank]
