"""Runs inside a run: the members of an ensemble, the folds of a cross-validation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from instructgpt.reward_model.settings import RewardConfig


def train_in_turn(
    configs: Sequence[RewardConfig], what: str, train_one: Callable[[RewardConfig], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Summaries of the runs, each trained or found finished; says on stderr which one is in hand.

    `what` names one of them: "member", "fold".
    """
    summaries = []
    for number, config in enumerate(configs, start=1):
        print(f"{what} {number} of {len(configs)}: {config.out}", file=sys.stderr, flush=True)
        summaries.append(train_one(config))
    return summaries
