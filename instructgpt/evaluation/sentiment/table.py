"""The sentiment experiment as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt.evaluation.sentiment.measures import METRICS
from instructgpt.evaluation.statistics import Estimate

QUOTED: tuple[tuple[str, str, str], ...] = (
    ("logistic regression", "0.847", ""),
    ("RNN", "0.865", ""),
    ("GPT-style, instruction-tuned", "0.882", "0.874"),
)
"""(model, accuracy, F1) as articles often quote them; neither code, split nor seed is given with them."""


def table(summary: Mapping[str, Any]) -> str:
    """Measures of every system, then the first one's differences."""
    names = list(summary["systems"])
    width = max(map(len, names)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{metric.name:>11}" for metric in METRICS) + f"{'train loss':>12}"]
    for name in names:
        row = summary["systems"][name]
        cells = "".join(f"{row[metric.name]['mean']:>11.3f}" for metric in METRICS)
        trained = row["train_loss"]
        seeds = f"   {row['seeds']} seeds" if row["seeds"] > 1 else ""
        lines.append(f"{name:<{width}}{cells}{'-' if trained is None else format(trained, '.3f'):>12}{seeds}")
    lines.append("")
    for name, found in summary["difference"].items():
        cells = ", ".join(f"{key} {signed(found[key])}" for key in ("accuracy", "f1"))
        lines.append(f"{name.replace('_over_', ' - ')}: {cells}")
    lines.append(
        f"{summary['reviews']['test']} test reviews; 95 % paired bootstrap over reviews, seeds averaged."
    )
    return "\n".join(lines)


def signed(found: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def with_interval(found: Mapping[str, float]) -> str:
    """An estimate with its interval."""
    return str(Estimate(found["mean"], found["low"], found["high"], int(found["n"])))
