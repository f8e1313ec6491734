"""Win rates of models over a baseline: raw and at equal length, with intervals over prompts and labelers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.preference.comparisons import Comparison
from instructgpt.maths.betting import confidence_sequence, first_refuted
from instructgpt.maths.clustered import (
    LEVEL,
    clustered_mean,
    equal_weights,
    resampled_weights,
    wilson_interval,
)
from instructgpt.maths.length_control import length_controlled_fits
from instructgpt.runtime.seeds import derive_seed

FEW_LABELERS = 6
"""With fewer, an interval over labelers too would hardly say anything: it is over prompts alone."""


@dataclass(frozen=True)
class Votes:
    """The comparisons of one model with the baseline, as tensors of one row a vote."""

    outcomes: Tensor
    """(n,) float64 from the model's side."""
    prompts: Tensor
    """(n,) int64, numbered in the order of their first votes."""
    judges: Tensor
    """(n,) int64."""
    differences: Tensor | None
    """(n,) float64: characters of the model's reply less those of the baseline's; None if not known."""
    weights: Tensor
    """(n,) float64: every prompt counts once, however many votes it has."""

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], model: str, baseline: str) -> Votes:
        """
        Raises:
            DataError: the two were never compared.
        """
        rows = [one for one in comparisons if {one.first, one.second} == {model, baseline}]
        if not rows:
            raise DataError(
                f"no row compares {model} with {baseline}", cure="choose another --baseline, or compare them"
            )
        differences = None
        if all(one.lengths is not None for one in rows):
            signed = [
                (one.lengths[0] - one.lengths[1]) * (1 if one.first == model else -1)
                for one in rows
                if one.lengths is not None
            ]
            differences = torch.tensor(signed, dtype=torch.float64)
        prompts = _numbered([one.prompt for one in rows])
        outcomes = torch.tensor([one.of(model) for one in rows], dtype=torch.float64)
        judges = _numbered([one.judge for one in rows])
        return cls(outcomes, prompts, judges, differences, equal_weights(prompts))

    @property
    def prompt_means(self) -> Tensor:
        """(prompts,) in order: the mean outcome of each prompt's votes."""
        count = int(self.prompts.max()) + 1
        return torch.zeros(count, dtype=torch.float64).index_add_(
            0, self.prompts, self.weights * self.outcomes
        )


def _numbered(keys: Sequence[str]) -> Tensor:
    places: dict[str, int] = {}
    return torch.tensor([places.setdefault(key, len(places)) for key in keys])


def clusterings(votes: Votes, over: str) -> list[Tensor]:
    """What an interval is over: prompts, labelers, both, or auto (both from six labelers on).

    Raises:
        ConfigError: labelers are asked for where there are not two.
    """
    labelers = int(votes.judges.max()) + 1
    if over == "auto":
        over = "both" if labelers >= FEW_LABELERS else "prompts"
    if over != "prompts" and labelers < 2:
        raise ConfigError(
            "there are no two labelers to take an interval over", "--over", "use --over prompts"
        )
    return {"prompts": [votes.prompts], "labelers": [votes.judges], "both": [votes.prompts, votes.judges]}[
        over
    ]


def win_rate(
    comparisons: Sequence[Comparison],
    model: str,
    baseline: str,
    *,
    over: str = "auto",
    level: float = LEVEL,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """A model's win rate over the baseline.

    Returns:
        `mean`, `low`, `high`: the score interval in clusters (`maths.clustered.wilson_interval`), whose
        coverage docs/results/coverage.md shows; `n` votes, `prompts`, `labelers`, `ties` (share of votes),
        `over` (what the interval is over); `bootstrap`: percentile intervals by `prompts`, and with two
        labelers or more by `labelers` and `both`; `at_equal_length` {mean, low, high} or None where lengths
        are not known; `at_any_time` {low, high, decided_after}: a confidence sequence over prompts.

    Raises:
        DataError: the two were never compared. ConfigError: see `clusterings`.
    """
    votes = Votes.of(comparisons, model, baseline)
    chosen = clusterings(votes, over)
    found = clustered_mean(votes.outcomes, votes.weights, chosen)
    low, high = wilson_interval(found, level)
    labelers = int(votes.judges.max()) + 1
    ways = {"prompts": [votes.prompts]}
    if labelers > 1:
        ways |= {"labelers": [votes.judges], "both": [votes.prompts, votes.judges]}
    drawn_seed = derive_seed(seed, f"preference {model} {baseline}")
    over_both = len(chosen) == 2
    return {
        "mean": found.mean,
        "low": low,
        "high": high,
        "n": votes.outcomes.numel(),
        "prompts": int(votes.prompts.max()) + 1,
        "labelers": labelers,
        "ties": float((votes.outcomes == 0.5).double().mean()),
        "over": "prompts and labelers" if over_both else "labelers" if over == "labelers" else "prompts",
        "bootstrap": {
            name: _percentiles(_means(votes, way, draws, drawn_seed), level) for name, way in ways.items()
        },
        "at_equal_length": _at_equal_length(votes, chosen, level, draws, drawn_seed),
        "at_any_time": at_any_time(votes.prompt_means, level),
    }


def _means(votes: Votes, way: Sequence[Tensor], draws: int, seed: int) -> Tensor:
    drawn = resampled_weights(votes.weights, way, seed, draws)
    return torch.cat([weights @ votes.outcomes / weights.sum(dim=1) for weights in drawn])


def _percentiles(values: Tensor, level: float) -> list[float]:
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return list(torch.nanquantile(values, ends).tolist())


def _at_equal_length(
    votes: Votes, way: Sequence[Tensor], level: float, draws: int, seed: int
) -> dict[str, float] | None:
    differences = votes.differences
    if differences is None:
        return None
    spread = float(differences.std()) if differences.numel() > 1 else 0.0

    def fit(weights: Tensor) -> Tensor:
        return length_controlled_fits(votes.outcomes, differences, weights, spread)

    mean = float(fit(votes.weights[None])[0])
    drawn = torch.cat([fit(weights) for weights in resampled_weights(votes.weights, way, seed, draws)])
    low, high = _percentiles(drawn, level)
    return {"mean": mean, "low": low, "high": high}


def at_any_time(prompt_means: Tensor, level: float = LEVEL) -> dict[str, Any]:
    """The confidence sequence over prompts in the order in which they were compared: `low`, `high` now, and
    `decided_after`, the number of prompts after which 1/2 was refuted and one could have stopped; None if it
    is not refuted yet."""
    low, high = confidence_sequence(prompt_means, level)[-1].tolist()
    return {"low": low, "high": high, "decided_after": first_refuted(prompt_means, 0.5, level)}


def win_rates(comparisons: Sequence[Comparison], baseline: str, **options: Any) -> dict[str, dict[str, Any]]:
    """`win_rate` of every model that was compared with the baseline, by `NAME_over_BASELINE`; `options` as
    there."""
    met = {
        name: None
        for one in comparisons
        if baseline in (one.first, one.second)
        for name in (one.first, one.second)
    }
    return {
        f"{name}_over_{baseline}": win_rate(comparisons, name, baseline, **options)
        for name in met
        if name != baseline
    }
