"""What the stage `methods` shows: a table for a terminal and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt.evaluation.drawing import colour, draw, label, standalone

Summary = Mapping[str, Any]
TITLES = {
    "samples": "equal samples",
    "seconds": "equal time",
    "seconds_with_reward": "equal time, the reward model's training counted",
}


def methods_table(summary: Summary) -> str:
    """One line a method under each heading, the SFT model first.

    Args:
        summary: of the stage: `budget`, `points`, `sft`.
    """
    lines = []
    for at, title in TITLES.items():
        rows = [point for point in summary["points"] if point["at"] == at]
        if not rows:
            continue
        lines += ["", f"at {title} ({_budget(summary, at)}):", _HEAD, _line("sft", summary["sft"])]
        lines += [_line(row["method"], row) for row in rows]
    return "\n".join(lines[1:])


_HEAD = (
    f"{'':<10}{'utility':>24}{'over ' + 'SFT':>24}{'KL':>8}{'text loss':>11}{'reward':>8}"
    f"{'replies':>9}{'seconds':>9}"
)


def _line(name: str, row: Summary) -> str:
    gain = interval(row["over_sft"]) if "over_sft" in row else ""
    spent = f"{row['samples']:>9.0f}{row['seconds']:>9.1f}" if "seconds" in row else ""
    return (
        f"{name:<10}{interval(row['utility']):>24}{gain:>24}{row['kl']['mean']:>8.2f}"
        f"{row['pretrain_loss']:>11.4f}{row['reward']:>8.2f}{spent}"
    )


def _budget(summary: Summary, at: str) -> str:
    budget = summary["budget"]
    if at == "samples":
        return f"{budget['samples']:.0f} replies"
    seconds = budget["seconds"] + (budget["reward_seconds"] if at == "seconds_with_reward" else 0.0)
    return f"{seconds:.1f} s"


def interval(found: Summary) -> str:
    """`mean [low, high]`."""
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def methods_figure(summary: Summary) -> str:
    """Hidden utility against KL, a panel for equal samples and one for equal time; an SVG file."""
    kinds = [at for at in ("samples", "seconds") if any(p["at"] == at for p in summary["points"])]
    shown = [p for p in summary["points"] if p["at"] in kinds]
    ends = [p["utility"][end] for p in (summary["sft"], *shown) for end in ("low", "high")]
    farthest = max([0.1, *(p["kl"]["mean"] for p in shown)])

    def paint(panels: list[Any]) -> None:
        for panel, at in zip(panels, kinds, strict=True):
            start = summary["sft"]
            _dot(panel, "sft", start["kl"]["mean"], start["utility"])
            for point in summary["points"]:
                if point["at"] == at:
                    _dot(panel, point["method"], point["kl"]["mean"], point["utility"])
            panel.set_xlim(-0.05 * farthest, 1.05 * farthest)  # one scale, so that the panels compare
            panel.set_ylim(min(ends) - 0.02, max(ends) + 0.02)
            panel.set_title(f"at {TITLES[at]}")
            panel.set_xlabel("KL to the SFT model, nats per reply")
            panel.set_ylabel("hidden utility")
            panel.legend(loc="lower right")

    return standalone(draw("methods", paint, columns=len(kinds), height=3.6))


def _dot(panel: Any, name: str, kl: float, utility: Summary) -> None:
    mean = utility["mean"]
    reach = [[mean - utility["low"]], [utility["high"] - mean]]
    panel.errorbar(
        [kl], [mean], yerr=reach, fmt="o", color=colour(name), label=label(name), markersize=6, linewidth=1.2
    )
