"""reliability.svg: a run's calibration at a glance."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructgpt.runtime.files import write_text

FILE = "reliability.svg"
_BAR, _LINE = "#8b949e", "#1f9e89"


def write_reliability(folder: Path, calibration: Mapping[str, Any]) -> None:
    """Draw confidence against the share right, and below it how many pairs have which confidence.

    Equal numbers give equal bytes. Nothing is written where matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return
    rows = [row for row in calibration["bins"] if row["pairs"]]
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": FILE,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 4.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0.5, 1], [0.5, 1], color=_BAR, linestyle="--", label="as often right as it says")
        shown = [row["confidence"] for row in rows], [row["accuracy"] for row in rows]
        upper.plot(*shown, color=_LINE, marker="o", label="reward model")
        temperature = calibration["temperature"]
        best = "none" if temperature is None else f"{temperature:.2f}"
        upper.set_title(f"ECE {calibration['ece']:.3f}, best temperature {best}", fontsize=10)
        upper.set_ylabel("share of pairs it is right on")
        upper.set_xlim(0.5, 1)
        upper.set_ylim(min(0.45, *shown[1]) - 0.02, 1.02)
        upper.legend(frameon=False, fontsize=9)
        width = rows[0]["to"] - rows[0]["from"]
        places = [row["from"] + width / 2 for row in rows]
        lower.bar(places, [row["pairs"] for row in rows], 0.9 * width, color=_BAR)
        lower.set_ylabel("pairs")
        lower.set_xlabel("confidence: sigmoid(|score difference|)")
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_text(folder / FILE, drawn.getvalue())
