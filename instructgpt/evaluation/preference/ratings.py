"""Bradley-Terry strengths of many models on Elo's scale, with intervals from the clustered bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from instructgpt.errors import DataError
from instructgpt.evaluation.preference.comparisons import Comparison, names
from instructgpt.maths.bradley_terry import ELO_PER_NAT, WEAK_PRECISION, groups, islands, strengths
from instructgpt.maths.clustered import LEVEL, equal_weights, resampled_weights
from instructgpt.runtime.seeds import derive_seed

ANCHOR = 1000.0
"""The baseline's rating."""


def ratings(
    comparisons: Sequence[Comparison],
    baseline: str,
    *,
    over_labelers: bool = False,
    level: float = LEVEL,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Elo ratings with the baseline at 1,000, best first: `elo`, `low`, `high` (of the difference to the
    baseline), `votes`, `bounded`.

    Every prompt counts once for each pair of models. The interval is the percentile bootstrap over prompts,
    or over prompts and labelers. A model that won, or lost, all its comparisons with the others has no finite
    strength: `bounded` is False, and a weak prior (`WEAK_PRECISION`) holds it.

    Raises:
        DataError: between two groups of models there is no comparison at all.
    """
    known = names(comparisons)
    place = {name: number for number, name in enumerate(known)}
    first = torch.tensor([place[one.first] for one in comparisons])
    second = torch.tensor([place[one.second] for one in comparisons])
    outcomes = torch.tensor([one.outcome for one in comparisons], dtype=torch.float64)
    prompts = _numbers([one.prompt for one in comparisons])
    pairs = torch.minimum(first, second) * len(known) + torch.maximum(first, second)
    weights = equal_weights(prompts * len(known) ** 2 + pairs)

    def table(weighted: Tensor) -> Tensor:
        """Wins (rows, M, M) under weights (rows, n)."""
        count = len(known)
        wins = torch.zeros(weighted.shape[0], count * count, dtype=torch.float64)
        wins.index_add_(1, first * count + second, weighted * outcomes)
        wins.index_add_(1, second * count + first, weighted * (1 - outcomes))
        return wins.reshape(-1, count, count)

    wins = table(weights[None])[0]
    parts = islands(wins)
    if len(parts) > 1:
        shown = " and ".join("(" + ", ".join(known[number] for number in part) + ")" for part in parts)
        raise DataError(
            f"there is no comparison between the models {shown}",
            cure="compare one of each with one of the others, or give them to separate commands",
        )
    together = groups(wins)
    bounded = len(together) == 1
    found = strengths(wins, 0.0 if bounded else WEAK_PRECISION)
    ways = [prompts, _numbers([one.judge for one in comparisons])] if over_labelers else [prompts]
    drawn = torch.cat(
        [
            strengths(table(weighted), WEAK_PRECISION)
            for weighted in resampled_weights(weights, ways, derive_seed(seed, "ratings"), draws)
        ]
    )
    zero = place[baseline]
    elo = ANCHOR + ELO_PER_NAT * (found - found[zero])
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(ANCHOR + ELO_PER_NAT * (drawn - drawn[:, zero, None]), ends, dim=0)
    votes = torch.bincount(first, minlength=len(known)) + torch.bincount(second, minlength=len(known))
    largest = max(together, key=len)
    return {
        known[number]: {
            "elo": float(elo[number]),
            "low": float(low[number]),
            "high": float(high[number]),
            "votes": int(votes[number]),
            "bounded": bounded or (len(largest) > 1 and number in largest),
        }
        for number in elo.argsort(descending=True).tolist()
    }


def _numbers(keys: Sequence[str]) -> Tensor:
    places: dict[str, int] = {}
    return torch.tensor([places.setdefault(key, len(places)) for key in keys])
