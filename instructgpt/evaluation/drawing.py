"""How plots look: one style, readable on light and dark pages, nothing loaded from anywhere.

Plots are inline SVG. Text takes the page's colour and font; only the data are coloured, each model the same
everywhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

from instructgpt.errors import ConfigError

INK, RULE = "#010203", "#040506"  # stand-ins, replaced by the page's own colours in the SVG
_COLOURS = {
    "base": "#b08d57",
    "sft": "#8b949e",
    "sft_best": "#6e7b8b",
    "sft_more": "#6e7b8b",
    "best_of_n": "#1f9e89",
    "ppo": "#e8862e",
    "ppo_ptx": "#3f83f8",
    "ppo_drift": "#d9485f",
    "ppo_ptx_drift": "#9b6bdf",
    "a2c": "#b08d57",
    "rloo": "#d9485f",
    "grpo": "#9b6bdf",
    "distill": "#1f9e89",
    "dpo": "#2f6f4f",
    "pretrain": "#b08d57",
    "reward": "#1f9e89",
}
_OTHERS = ("#3f83f8", "#e8862e", "#1f9e89", "#9b6bdf", "#d9485f", "#b08d57", "#8b949e")
_LABELS = {
    "base": "base",
    "pretrain": "pretraining",
    "sft": "SFT",
    "sft_best": "best SFT",
    "sft_more": "SFT, more",
    "best_of_n": "best of n",
    "best_of_n_estimated": "best of n, KL estimated",
    "ppo": "PPO",
    "ppo_ptx": "PPO-ptx",
    "ppo_drift": "PPO, β near 0",
    "ppo_ptx_drift": "PPO-ptx, β near 0",
    "a2c": "A2C",
    "rloo": "RLOO",
    "grpo": "GRPO",
    "dpo": "DPO",
    "distill": "best of n, distilled",
    "bag_of_words": "bag of words",
    "longer": "longer wins",
    "shorter": "shorter wins",
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def label(name: str) -> str:
    """What a model or a baseline is called in plots and tables."""
    if name.startswith("best_of_") and name[8:].isdigit():
        return f"best of {name[8:]}"
    return _LABELS.get(name, name.replace("_", " "))


def colour(name: str) -> str:
    """The colour of a model, the same in all plots."""
    if name.startswith("best_of_"):
        return _COLOURS["best_of_n"]
    return _COLOURS.get(name) or _OTHERS[sum(name.encode()) % len(_OTHERS)]


def distinct_colours(names: Iterable[str]) -> dict[str, str]:
    """Colours for one plot: those of `colour`; names that have none of their own get different ones, as far
    as there are enough."""
    found = {name: colour(name) for name in names}
    own = {name for name in found if name in _COLOURS or name.startswith("best_of_")}
    free = [hue for hue in _OTHERS if hue not in {found[name] for name in own}] or list(_OTHERS)
    others = [name for name in found if name not in own]
    return found | {name: free[i % len(free)] for i, name in enumerate(others)}


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        cure = "pip install 'instructgpt[eval]'"
        raise ConfigError("the report's plots need matplotlib", "report", cure) from error
    return matplotlib


def draw(name: str, paint: Any, columns: int = 1, rows: int = 1, height: float = 3.0) -> str:
    """An SVG of `rows` x `columns` panels, 10 inches wide in all, that `paint(axes)` fills.

    Args:
        name: makes the ids inside the SVG differ from those of other plots of the page.
        paint: called with the list of panels, row by row.
        height: of one row, in inches.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = matplotlib.figure.Figure(figsize=(10, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        paint([panel for line in axes for panel in line])
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """The bare <svg> element, scalable, in the page's colours, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    return svg.replace("<svg", f'<svg role="img" aria-label="{name}"', 1)


def standalone(svg: str) -> str:
    """An inline plot as a file of its own: namespaces, and a page's colours by day and by night."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = (
        "<style>:root{color:#1f2328;--rule:#d0d7de;background:#ffffff;font-family:system-ui,sans-serif}"
        "@media (prefers-color-scheme:dark){:root{color:#e4e8ec;--rule:#3a434d;background:#13171c}}</style>"
    )
    svg = re.sub(r"(<svg[^>]*>)", rf"\1{style}", svg.replace("<svg", f"<svg {spaces}", 1), count=1)
    return svg if svg.endswith("\n") else svg + "\n"
