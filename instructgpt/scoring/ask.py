"""How a stage asks a reward: with the prompts' records, and with ids where the reward reads ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from instructgpt.data.records import Prompt
from instructgpt.errors import DataError
from instructgpt.scoring.protocol import Reward
from instructgpt.scoring.reward import Ensemble, RewardModel
from instructgpt.scoring.service import ServiceReward
from instructgpt.scoring.verify import Verify
from instructgpt.scoring.weighted import WeightedSum
from instructgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Scores:
    """Scores of n replies."""

    total: Tensor
    """(n,) float32 reward units: what counts."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Of a weighted sum each part's own scores by name, (n,) float32, before the weight; else empty."""


def leaves(reward: Reward) -> Iterator[Reward]:
    """The rewards of a weighted sum, or the reward itself."""
    if isinstance(reward, WeightedSum):
        for part in reward.parts:
            yield from leaves(part.reward)
    else:
        yield reward


def failures(reward: Reward) -> int | None:
    """Requests to services that failed so far, though another try may have mended it; None without a
    service."""
    services = [leaf for leaf in leaves(reward) if isinstance(leaf, ServiceReward)]
    return sum(service.failures for service in services) if services else None


def check_prompts(reward: Reward, prompts: Sequence[Prompt], path: str) -> None:
    """Look, before any long work, whether the reward can judge replies to all prompts.

    Raises:
        DataError: a record has no `answer` or `checks` where a verifier needs them, or wrong ones.
    """
    for leaf in leaves(reward):
        if not isinstance(leaf, Verify):
            continue
        for prompt in prompts:
            try:
                leaf.check_prompt(prompt)
            except DataError as error:
                raise DataError(error.what, f"{path}, {error.where}", error.cure) from error


def score_records(reward: Reward, prompts: Sequence[Prompt], replies: Sequence[str]) -> list[float]:
    """Scores of replies as texts, each read as a finished reply."""
    if isinstance(reward, WeightedSum):
        return reward.combine([score_records(part.reward, prompts, replies) for part in reward.parts])
    if isinstance(reward, Verify):
        return reward.score_records(prompts, replies)
    return reward.score([prompt.messages for prompt in prompts], replies)


def score_sampled(
    reward: Reward,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    sequences: Sequence[Sequence[int]],
) -> Scores:
    """Scores of sampled replies.

    A reward model, or an ensemble, of the same tokenizer reads the very ids, at the last of each sequence, so
    that a reply which was cut is scored as cut; so does one within a weighted sum. Others read the texts.

    Args:
        tokenizer: of the model that sampled.
        sequences: n rows, the prompt's ids and then the reply's.
    """
    if isinstance(reward, WeightedSum):
        parts = {
            part.name: score_sampled(part.reward, tokenizer, prompts, replies, sequences).total
            for part in reward.parts
        }
        total = reward.combine([scores.tolist() for scores in parts.values()])
        return Scores(torch.tensor(total, dtype=torch.float32), parts)
    if isinstance(reward, RewardModel | Ensemble) and reward.tokenizer.fingerprint == tokenizer.fingerprint:
        return Scores(reward.score_ids(sequences).float().cpu().clone())
    return Scores(torch.tensor(score_records(reward, prompts, replies), dtype=torch.float32))
