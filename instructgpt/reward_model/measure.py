"""What held-out rankings say about scores: accuracy with its interval, broken down, and calibration.

All works on untied pairs. The interval's unit is the prompt: its replies are in several pairs each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instructgpt.data.records import Ranking
from instructgpt.maths.calibration import best_temperature, expected_calibration_error, pair_nll, reliability
from instructgpt.maths.ranking import pairwise_accuracy, ranking_loss, untied_pairs
from instructgpt.maths.resampling import ratio_intervals

BINS = 10
"""Bins of confidence between 0.5 and 1."""
FURTHEST = 6
"""Rank distances from this one on are one row."""
LENGTH_BINS = ("below 1/2", "1/2 to 4/5", "4/5 to 1", "equal", "1 to 5/4", "5/4 to 2", "above 2")
"""Length of the better reply / length of the worse one, in characters; the cuts mirror each other at 1."""
SIGNS = ("better is shorter", "equally long", "better is longer")
UNNAMED = "(none)"

Grouping = tuple[Sequence[str], Tensor]
"""(names, for every pair the number of its name)."""


@dataclass(frozen=True)
class Pairs:
    """Untied pairs of rankings, in the order of `maths.ranking.untied_pairs`.

    Attributes:
        better, worse: (P,) places of the two replies among all replies.
        prompt: (P,) number of the prompt; rankings of one prompt by two labelers share it.
        groupings: `by_rank_distance`, `by_length_difference`, `by_length_sign` and, where a prompt has one,
            `by_category`.
    """

    better: Tensor
    worse: Tensor
    prompt: Tensor
    groupings: dict[str, Grouping]

    @classmethod
    def of(cls, rankings: Sequence[Ranking]) -> Pairs:
        """The pairs of these rankings. Ranks are levels: a number that no reply has does not count."""
        levels = [rank for ranking in rankings for rank in _levels(ranking)]
        counts = [len(ranking.responses) for ranking in rankings]
        better, worse, place = untied_pairs(torch.tensor(levels, dtype=torch.int64), counts)
        ranks = torch.tensor(levels, dtype=torch.int64)
        lengths = torch.tensor(
            [len(reply.text) for r in rankings for reply in r.responses], dtype=torch.int64
        )
        ids = _numbers([ranking.prompt.id for ranking in rankings])[1]
        distance = (ranks[worse] - ranks[better]).clamp(max=FURTHEST) - 1
        distances = [*map(str, range(1, FURTHEST)), f"{FURTHEST} or more"]
        groupings: dict[str, Grouping] = {
            "by_rank_distance": (distances, distance),
            "by_length_difference": (LENGTH_BINS, _length_bin(lengths[better], lengths[worse])),
            "by_length_sign": (SIGNS, (lengths[better] - lengths[worse]).sign() + 1),
        }
        if any(ranking.prompt.category for ranking in rankings):
            names, number = _numbers([ranking.prompt.category or UNNAMED for ranking in rankings])
            groupings["by_category"] = (names, number[place])
        return cls(better, worse, ids[place], groupings)


def agreement(scores: Tensor, ranks: Sequence[int], counts: Sequence[int]) -> dict[str, float]:
    """`loss` and `accuracy` as in training, `pairs`, and `reward_std` over all replies; empty without any.

    `scores` (n,) and `ranks` (n,) prompt after prompt, `counts` how many each prompt has.
    """
    if not counts:
        return {}
    order = torch.tensor(ranks)
    accuracy, pairs = pairwise_accuracy(scores, order, counts)
    loss = ranking_loss(scores, order, counts)[0].item()
    spread = scores.double().std(correction=0).item()
    return {"loss": loss, "accuracy": accuracy, "pairs": pairs, "reward_std": spread}


def measure(scores: Tensor, rankings: Sequence[Ranking], seed: int) -> dict[str, Any]:
    """How scores do on rankings, in detail.

    Args:
        scores: (n,) of all replies, ranking after ranking.
        rankings: the order that counts as right.
        seed: draws the bootstrap.

    Returns:
        `accuracy_interval` [low, high] (95 %), `calibration` (see `calibration_of`) and `by_rank_distance`,
        `by_length_difference`, `by_length_sign`, `by_category`: lists of rows {name, pairs, prompts,
        accuracy, low, high}, empty ones left out. Without an untied pair None and empty lists.
    """
    pairs = Pairs.of(rankings)
    margins = scores.double()[pairs.better] - scores.double()[pairs.worse]
    tables = ("by_rank_distance", "by_length_difference", "by_length_sign", "by_category")
    if not margins.numel():
        return {"accuracy_interval": None, "calibration": None, **{name: [] for name in tables}}
    everything: Grouping = (("all",), torch.zeros_like(pairs.prompt))
    found = accuracy_by(margins, pairs.prompt, {"all": everything, **pairs.groupings}, seed)
    whole = found.pop("all")[0]
    return {
        "accuracy_interval": [whole["low"], whole["high"]],
        "calibration": calibration_of(margins),
        **{name: found.get(name, []) for name in tables},
    }


def calibration_of(margins: Tensor) -> dict[str, Any]:
    """Calibration of at least one pair, each pair weighing the same.

    Returns:
        `bins` (rows {from, to, pairs, confidence, accuracy}; the last two None in an empty bin), `ece`,
        `confidence` (mean), `temperature` (None where none is best), `nll` and `nll_at_temperature` (nats
        per pair; the latter None likewise).
    """
    curve = reliability(margins, BINS)
    bins = []
    for number, (pairs, confidence, right) in enumerate(zip(*(part.tolist() for part in curve), strict=True)):
        row = {"from": 0.5 + 0.5 * number / BINS, "to": 0.5 + 0.5 * (number + 1) / BINS, "pairs": pairs}
        bins.append(row | {"confidence": confidence if pairs else None, "accuracy": right if pairs else None})
    temperature = best_temperature(margins)
    return {
        "bins": bins,
        "ece": expected_calibration_error(curve),
        "confidence": float(torch.sigmoid(margins.abs()).mean()),
        "temperature": temperature,
        "nll": pair_nll(margins),
        "nll_at_temperature": None if temperature is None else pair_nll(margins, temperature),
    }


def accuracy_by(
    margins: Tensor, prompt: Tensor, groupings: Mapping[str, Grouping], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy of each group of pairs of each grouping, with its bootstrap interval over prompts.

    `margins` and `prompt` (P,); rows as `measure` describes them.
    """
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    prompts = int(prompt.max()) + 1
    rows: list[dict[str, Any]] = []
    tops, bottoms = [], []
    for grouping, (names, number) in groupings.items():
        for place, name in enumerate(names):
            member = number == place
            if not member.any():
                continue
            tops.append(torch.bincount(prompt[member], weights=right[member], minlength=prompts))
            bottoms.append(torch.bincount(prompt[member], minlength=prompts).double())
            pairs = int(member.sum())
            rows.append(
                {
                    "grouping": grouping,
                    "name": name,
                    "pairs": pairs,
                    "prompts": int((bottoms[-1] > 0).sum()),
                    "accuracy": float(right[member].sum()) / pairs,
                }
            )
    low, high = ratio_intervals(torch.stack(tops, 1), torch.stack(bottoms, 1), seed).tolist()
    found: dict[str, list[dict[str, Any]]] = {grouping: [] for grouping in groupings}
    for row, least, most in zip(rows, low, high, strict=True):
        found[row.pop("grouping")].append(row | {"low": least, "high": most})
    return found


def _levels(ranking: Ranking) -> list[int]:
    levels = {rank: level for level, rank in enumerate(sorted({reply.rank for reply in ranking.responses}))}
    return [levels[reply.rank] for reply in ranking.responses]


def _length_bin(better: Tensor, worse: Tensor) -> Tensor:
    """Number of the `LENGTH_BINS` for lengths (P,); two empty replies are equal."""
    ratio = torch.where(better == worse, 1.0, better.double() / worse.double())
    passed = [ratio >= 1 / 2, ratio >= 4 / 5, ratio >= 1, ratio > 1, ratio > 5 / 4, ratio > 2]
    return torch.stack(passed).long().sum(0)


def _numbers(names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct names, the most frequent first, and the number of each name."""
    count = Counter(names)
    distinct = sorted(count, key=lambda name: (-count[name], name))
    places = {name: place for place, name in enumerate(distinct)}
    return distinct, torch.tensor([places[name] for name in names], dtype=torch.int64)
