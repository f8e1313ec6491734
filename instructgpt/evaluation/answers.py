"""A model's sampled replies to prompts: made once, then measured in every way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from instructgpt.data.records import Prompt
from instructgpt.generation.loading import open_model
from instructgpt.generation.reply import Reply, sample_replies
from instructgpt.model.heads import LanguageModel
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A language model with its tokenizer, under the name that tables show."""

    name: str
    model: LanguageModel
    tokenizer: Tokenizer

    @classmethod
    def load(cls, name: str, folder: str | Path, device: torch.device | str = "cpu") -> Candidate:
        """Open a checkpoint, or the final checkpoint of a finished stage's folder."""
        return cls(name, *open_model(folder, device))


@dataclass(frozen=True)
class Answers:
    """One reply to each prompt, with the ids it was made of."""

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[list[int], ...]
    replies: tuple[Reply, ...]

    @property
    def texts(self) -> list[str]:
        """The replies as text."""
        return [reply.text for reply in self.replies]

    @property
    def ids(self) -> list[list[int]]:
        """The replies' ids, with the id that ended them."""
        return [list(reply.ids) for reply in self.replies]

    @property
    def sequences(self) -> list[list[int]]:
        """Prompt and reply as one row of ids: what a reward model reads."""
        return [[*p, *r.ids] for p, r in zip(self.prompt_ids, self.replies, strict=True)]

    @property
    def length(self) -> float:
        """Mean length of a reply in tokens, the one that ended it included."""
        return sum(len(reply.ids) for reply in self.replies) / len(self.replies)

    @property
    def eos_rate(self) -> float:
        """Share of replies that ended by themselves (field fault 17)."""
        return sum(reply.stopped for reply in self.replies) / len(self.replies)

    def head(self, count: int) -> Answers:
        """The answers to the first `count` prompts."""
        return Answers(self.prompts[:count], self.prompt_ids[:count], self.replies[:count])


def answer(
    candidate: Candidate,
    prompts: Sequence[Prompt],
    *,
    samples: int = 1,
    max_new: int,
    temperature: float = 1.0,
    seed: int = 0,
    source: str = "",
) -> list[Answers]:
    """Sample `samples` replies to each prompt; one `Answers` a sample. `source` names the prompts' file.

    A reply depends on (seed, prompt id, sample) alone: the first n samples of more are the same ones.
    """
    model, tokenizer = candidate.model, candidate.tokenizer
    replies = sample_replies(model, tokenizer, prompts, samples, max_new, temperature, seed, source=source)
    prompt_ids = tuple(render_prompt(tokenizer, prompt.messages) for prompt in prompts)
    return [Answers(tuple(prompts), prompt_ids, tuple(row[i] for row in replies)) for i in range(samples)]
