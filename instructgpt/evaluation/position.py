"""Where a checkpoint stands: reward, a judge's score and KL of its own replies to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instructgpt.data.records import Prompt
from instructgpt.evaluation.answers import Candidate, answer
from instructgpt.evaluation.divergence import reply_divergence
from instructgpt.evaluation.judge import Judge
from instructgpt.generation.reply import Reply
from instructgpt.scoring.ask import score_sampled
from instructgpt.scoring.reward import Reward
from instructgpt.text.chat import render_prompt
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Position:
    """One number a prompt, of one reply sampled at temperature 1.

    Attributes:
        reward: by the reward that training follows.
        kl: nats per reply to the reference, the exact form of `divergence`.
        score: by the judge; empty if there is none.
        length: mean, in tokens.
        eos_rate: share of replies that ended by themselves.
    """

    reward: list[float]
    kl: list[float]
    score: list[float]
    length: float
    eos_rate: float

    def row(self) -> dict[str, Any]:
        """As JSON; `Position(**row)` gives it back."""
        return asdict(self)

    def means(self) -> dict[str, float]:
        """Means over the prompts, by name."""
        values = {"reward": self.reward, "kl": self.kl} | ({"score": self.score} if self.score else {})
        means = {name: sum(found) / len(found) for name, found in values.items()}
        return means | {"length": self.length, "eos_rate": self.eos_rate}


def locate(
    candidate: Candidate,
    reference: Candidate,
    reward: Reward,
    judge: Judge | None,
    prompts: Sequence[Prompt],
    *,
    max_new: int,
    seed: int,
    source: str = "",
) -> Position:
    """Sample one reply to each prompt and measure it.

    Every checkpoint draws by the same random keys, so that differences between checkpoints are paired.

    Raises:
        DataError: a prompt is too long, or the two models have different vocabularies.
    """
    found = answer(candidate, prompts, max_new=max_new, seed=seed, source=source)[0]
    scores = score_replies(reward, candidate.tokenizer, prompts, [[reply] for reply in found.replies])
    kl = reply_divergence(candidate.model, reference.model, found.prompt_ids, found.ids)
    return Position(
        reward=[row[0] for row in scores],
        kl=kl.exact,
        score=list(judge.score(prompts, found.texts)) if judge is not None else [],
        length=found.length,
        eos_rate=found.eos_rate,
    )


def score_replies(
    reward: Reward, tokenizer: Tokenizer, prompts: Sequence[Prompt], replies: Sequence[Sequence[Reply]]
) -> list[list[float]]:
    """Rewards [prompt][sample].

    A reward model, or an ensemble, of the same tokenizer reads the very ids, as in RL: a reply that was cut
    is scored as cut. Others read texts.
    """
    asked = [prompt for prompt, row in zip(prompts, replies, strict=True) for _ in row]
    texts = [reply.text for row in replies for reply in row]
    sequences = []
    for prompt, row in zip(prompts, replies, strict=True):
        ids = render_prompt(tokenizer, prompt.messages)
        sequences += [[*ids, *reply.ids] for reply in row]
    found = score_sampled(reward, tokenizer, asked, texts, sequences)
    scores = iter(float(score) for score in found.total.tolist())
    return [[next(scores) for _ in row] for row in replies]
