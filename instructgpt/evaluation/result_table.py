"""The demo's result as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt.evaluation.statistics import Estimate

COLUMNS = {
    "utility": "utility",
    "reward": "reward",
    "kl": "KL",
    "pretrain_loss": "text loss",
    "length": "length",
    "eos_rate": "ended",
}
"""Keys of a model's row and the headings they are shown under."""


def result_table(summary: Mapping[str, Any]) -> str:
    """One line a model, then what the reward model is worth.

    Args:
        summary: of the `evaluate` stage: `models`, `win_rate`, `reward_model`.
    """
    head = "".join(f"{title:>11}" for title in COLUMNS.values())
    lines = [f"{'model':<16}{head}{'wins over best SFT':>24}"]
    for name, row in summary["models"].items():
        cells = "".join(f"{row[column]:>11.3f}" for column in COLUMNS)
        wins = summary["win_rate"].get(f"{name}_over_sft")
        lines.append(f"{name:<16}{cells}{str(Estimate(**wins)) if wins else '-':>24}")
    model, labels = summary["reward_model"], summary["reward_model"]["labels"]
    baselines = ", ".join(f"{name} {value:.3f}" for name, value in model["baselines"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"reward model on unseen comparisons, against the true order: {model['accuracy']:.3f}",
            f"  baselines: {baselines}",
            f"  against the labelers: {labels['accuracy']:.3f}; the true utility itself scores "
            f"{labels['true_utility']:.3f}; two labelers agree on {model['agreement']:.3f}",
        ]
    )
