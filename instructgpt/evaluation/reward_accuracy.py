"""How often a reward agrees with an order of replies that it has not seen, beside simple baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from instructgpt.data.records import Prompt, Ranking
from instructgpt.maths.ranking import pairwise_accuracy
from instructgpt.reward_model.baselines import bag_of_words, longer_wins, shorter_wins
from instructgpt.reward_model.measure import measure

Scorer = Callable[[list[Prompt], list[str]], list[float]]
"""(prompts, replies) -> scores, higher is better."""


def scores_of(score: Scorer, rankings: Sequence[Ranking]) -> list[list[float]]:
    """The score of every reply, ranking by ranking."""
    prompts = [ranking.prompt for ranking in rankings for _ in ranking.responses]
    texts = [response.text for ranking in rankings for response in ranking.responses]
    flat = iter(score(prompts, texts))
    return [[next(flat) for _ in ranking.responses] for ranking in rankings]


def accuracy(scores: Sequence[Sequence[float]], rankings: Sequence[Ranking]) -> tuple[float, int]:
    """(share of a prompt's untied pairs in which the better-ranked reply scores higher, number of pairs)."""
    flat = torch.tensor([value for row in scores for value in row], dtype=torch.float64)
    ranks = torch.tensor([response.rank for ranking in rankings for response in ranking.responses])
    return pairwise_accuracy(flat, ranks, [len(ranking.responses) for ranking in rankings])


def ranked_by(scores: Sequence[Sequence[float]], rankings: Sequence[Ranking]) -> list[Ranking]:
    """The same replies, ranked by scores (higher is better, equal scores tie) and not by people."""
    ranked = []
    for row, ranking in zip(scores, rankings, strict=True):
        places = {value: place for place, value in enumerate(sorted(set(row), reverse=True), start=1)}
        responses = tuple(
            replace(response, rank=places[value])
            for response, value in zip(ranking.responses, row, strict=True)
        )
        ranked.append(replace(ranking, responses=responses))
    return ranked


def compare_rewards(
    scores: Sequence[Sequence[float]],
    held_out: Sequence[Ranking],
    training: Sequence[Ranking],
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of a reward's scores on held-out rankings, and that of the baselines.

    Args:
        scores: the reward's scores of the held-out replies, ranking by ranking.
        held_out: the order that counts as right.
        training: what the bag of words learns from.
        seed: draws the bootstrap of the intervals.

    Returns:
        `accuracy`, `pairs`, `baselines` {longer, shorter, bag_of_words (absent without scikit-learn)} and
        the details of `measure`. A model of noisy labels is rightly less confident than an order without
        noise would have it: believe its calibration against labels only.
    """
    found, pairs = accuracy(scores, held_out)
    baselines = {"longer": longer_wins(held_out), "shorter": shorter_wins(held_out)}
    bag = bag_of_words(training, held_out)
    if bag is not None:
        baselines["bag_of_words"] = bag
    flat = torch.tensor([value for row in scores for value in row], dtype=torch.float64)
    return {"accuracy": found, "pairs": pairs, "baselines": baselines, **measure(flat, held_out, seed)}
