"""The part of a run's summary that held-out rankings decide: a model's, and that of an ensemble's mean."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from instructgpt.reward_model.baselines import bag_of_words, longer_wins, shorter_wins
from instructgpt.reward_model.comparisons import Rankings
from instructgpt.reward_model.measure import agreement, measure
from instructgpt.reward_model.settings import RewardConfig
from instructgpt.runtime.seeds import derive_seed


def held_out_summary(scores: Tensor, rankings: Rankings, config: RewardConfig) -> dict[str, Any]:
    """What scores (n,) of the held-out replies are worth, beside the baselines.

    Returns:
        `accuracy`, `validation_loss`, `pairs`, `reward_std` (see `agreement`; None without held-out
        rankings), the baselines `longer_wins`, `shorter_wins`, `bag_of_words` (None where not measured), and
        `accuracy_interval`, `calibration`, `by_rank_distance`, `by_length_difference`, `by_length_sign`,
        `by_category` (see `measure`).
    """
    ranks = [rank for comparison in rankings.held_out for rank in comparison.ranks]
    found = agreement(scores, ranks, [len(comparison.ranks) for comparison in rankings.held_out])
    baselines = config.baselines and bool(found)
    train, held_out = rankings.train_texts, rankings.held_out_texts
    return {
        "accuracy": found.get("accuracy"),
        "validation_loss": found.get("loss"),
        "pairs": found.get("pairs", 0),
        "reward_std": found.get("reward_std"),
        "longer_wins": longer_wins(held_out) if baselines else None,
        "shorter_wins": shorter_wins(held_out) if baselines else None,
        "bag_of_words": bag_of_words(train, held_out) if baselines else None,
        **measure(scores, held_out, derive_seed(config.seed, "bootstrap")),
    }
