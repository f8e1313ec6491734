"""Demonstrations as token ids with their train mask, and the order in which they are seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from instructgpt.data.records import Demonstration, Prompt, read_demonstrations
from instructgpt.data.splits import split
from instructgpt.errors import DataError
from instructgpt.runtime.device import collecting_later
from instructgpt.runtime.seeds import derive_seed
from instructgpt.sft.settings import SFTConfig
from instructgpt.text.chat import Rendered, render_reply
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Examples:
    """What a run trains on and is measured on.

    Attributes:
        train, held_out: prompt and reply as ids; only the reply and its end-of-turn count.
        held_out_prompts: prompts of the held-out demonstrations.
        dropped: demonstrations left out because they are too long.
    """

    train: list[Rendered]
    held_out: list[Rendered]
    held_out_prompts: list[Prompt]
    dropped: int


@collecting_later()
def read_examples(config: SFTConfig, tokenizer: Tokenizer, context: int) -> Examples:
    """Read and encode the demonstrations that the flags name.

    Raises:
        DataError: the files are missing, empty or malformed; a record is too long and none may be dropped;
            or nothing is left to train on.
    """
    records = read_demonstrations(config.data)
    if config.validation:
        held_out = read_demonstrations(config.validation)
    else:
        parts = split(records, config.validation_share, seed=config.seed)
        records, held_out = parts["train"], parts["valid"] + parts["test"]
    limit = min(config.max_length or context, context)
    train, dropped = _encode(records, tokenizer, limit, config)
    measured, dropped_held_out = _encode(held_out, tokenizer, limit, config)
    if not train:
        what = f"none of the {dropped} demonstrations fits into {limit} tokens"
        if not dropped:
            what = "no demonstration is left to train on"
        raise DataError(
            what, config.data, "give more or shorter demonstrations, or a model with a longer context"
        )
    return Examples(train, measured, [record.prompt for record in held_out], dropped + dropped_held_out)


def _encode(
    records: Iterable[Demonstration], tokenizer: Tokenizer, limit: int, config: SFTConfig
) -> tuple[list[Rendered], int]:
    kept: list[Rendered] = []
    dropped = 0
    for record in records:
        rendered = render_reply(tokenizer, record.prompt.messages, record.response)
        if len(rendered.ids) <= limit:
            kept.append(rendered)
        elif config.long_records == "error":
            raise DataError(
                f"a demonstration has {len(rendered.ids)} tokens with its reply, {limit} fit",
                f"{config.data}, id {record.prompt.id}",
                "shorten it, raise --max-length up to the model's context, or use --long-records drop",
            )
        else:
            dropped += 1
    return kept, dropped


class Stream:
    """The demonstrations of every epoch behind one another, each epoch in its own order, cut into batches.

    Which demonstrations step n holds follows from (seed, n) alone, so that resuming needs no cursor. The last
    step may hold fewer: in one epoch nothing is seen twice.
    """

    def __init__(self, examples: Sequence[Rendered], batch: int, seed: int, epochs: float) -> None:
        self._examples, self._batch, self._seed = examples, batch, seed
        self._total = max(1, round(epochs * len(examples)))
        self._epoch = -1
        self._order: list[int] = []

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return -(-self._total // self._batch)

    def batch(self, step: int) -> list[Rendered]:
        """The demonstrations of step `step` (0-based)."""
        places = range(step * self._batch, min((step + 1) * self._batch, self._total))
        return [self._examples[self._at(*divmod(place, len(self._examples)))] for place in places]

    def _at(self, epoch: int, rank: int) -> int:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, "sft order", epoch))
            self._order = torch.randperm(len(self._examples), generator=generator).tolist()
            self._epoch = epoch
        return self._order[rank]
