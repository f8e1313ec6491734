"""The plot of `interpolation`: what is gained against the tax, along weights, checkpoints and the ptx mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructgpt.evaluation.drawing import colour, draw, label

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Track:
    """A line of the plot.

    Attributes:
        name: of the run it belongs to, which gives its colour.
        title: what the legend calls it.
        rows: figures of `interpolation.row`, in order, the start first.
        marks: a text beside a point, or "".
        kind: weights (interpolated), path (checkpoints of one run).
    """

    name: str
    title: str
    rows: Sequence[Row]
    marks: Sequence[str]
    kind: str


def tax_curve(panels: Mapping[str, Sequence[Track]], judge: str) -> str:
    """Reward and the judge's score against the tax; a column for each title of `panels`.

    Args:
        judge: what the second row's axis is called.
    """
    rows = [("reward", "reward"), ("score", judge)]

    def paint(axes: list[Any]) -> None:
        for number, (key, unit) in enumerate(rows):
            for column, (title, tracks) in enumerate(panels.items()):
                panel = axes[number * len(panels) + column]
                for track in tracks:
                    _line(panel, track, key)
                panel.axvline(0, color="#8b949e", linewidth=0.8, linestyle=":")
                panel.margins(x=0.08, y=0.1)
                panel.locator_params(axis="x", nbins=6)
                if column == 0:
                    panel.set_ylabel(unit)
                if number == 0:
                    panel.set_title(title)
                    panel.legend(fontsize=8)
                else:
                    panel.set_xlabel("loss on pretraining text above SFT's,\nnats per token (less is better)")

    return draw("interpolation", paint, columns=len(panels), rows=len(rows), height=3.6)


_STYLES: dict[str, dict[str, Any]] = {
    "weights": {"marker": "o", "markersize": 5, "linewidth": 1.8},
    "path": {"marker": "s", "markersize": 4, "linewidth": 1.0, "linestyle": "--"},
}


def _line(panel: Any, track: Track, key: str) -> None:
    tint = colour(track.name)
    x, y = [row["lost"] for row in track.rows], [row[key] for row in track.rows]
    panel.plot(x, y, color=tint, label=track.title, **_STYLES[track.kind])
    low, high = ([row[f"{key}_{end}"] for row in track.rows] for end in ("low", "high"))
    panel.vlines(x, low, high, color=tint, alpha=0.25, linewidth=1.2)
    for i, mark in enumerate(track.marks):
        if mark:  # above the line, on the side from which it comes up
            rises = y[min(i + 1, len(y) - 1)] >= y[max(i - 1, 0)]
            side = {"xytext": (-6, 5), "ha": "right"} if rises else {"xytext": (5, 5), "ha": "left"}
            panel.annotate(mark, (x[i], y[i]), textcoords="offset points", fontsize=8, **side)


def track_title(name: str, kind: str) -> str:
    """What the legend says: which way a model went."""
    return f"weights from SFT to {label(name)}" if kind == "weights" else f"{label(name)}, its checkpoints"
