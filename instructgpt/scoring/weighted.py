"""A weighted sum of rewards, each of which is logged by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from instructgpt.scoring.protocol import Reward
from instructgpt.text.chat import Message


@dataclass(frozen=True)
class Part:
    """One term: `weight` times the reward, known by `name`."""

    name: str
    weight: float
    reward: Reward


class WeightedSum:
    """Weight times reward, summed over the parts. Nothing is rescaled: a part counts by weight and spread."""

    def __init__(self, parts: Sequence[Part], name: str = "") -> None:
        self.parts = tuple(parts)
        self.name = name or " + ".join(
            f"{part.name}={part.weight:g}*{part.reward.name}" for part in self.parts
        )

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """The sums, for callers that have no records; see `ask.score_records`."""
        return self.combine([part.reward.score(prompts, replies) for part in self.parts])

    def combine(self, scores: Sequence[Sequence[float]]) -> list[float]:
        """The sums of each reply's scores; `scores` has a row a part, in the order of the parts."""
        weights = [part.weight for part in self.parts]
        return [
            sum(weight * score for weight, score in zip(weights, column, strict=True))
            for column in zip(*scores, strict=True)
        ]
