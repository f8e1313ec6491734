"""The sweep's plots, in the form of arXiv:2203.02155, App. E, Figures 33 and 34 (`drawing` has the looks)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructgpt.evaluation.drawing import INK, draw
from instructgpt.evaluation.tax import COST, RECOVERED

Row = Mapping[str, Any]

_USUAL, _START, _PTX, _BETA, _BOTH = "#3f83f8", "#8b949e", "#3f83f8", "#e8862e", "#9b6bdf"
_OTHERS = ("#e8862e", "#1f9e89", "#9b6bdf", "#d9485f", "#b08d57")


@dataclass(frozen=True)
class Dial:
    """One coefficient with the other held: what a column of `coefficients` shows."""

    key: str
    title: str
    other: str
    usual: float
    """Value of the other coefficient that is drawn thick."""


def coefficients(start: Row, runs: Sequence[Row], usual_beta: float, judge: str | None) -> str:
    """Pretraining loss, reward and score against each coefficient on a logarithmic axis, 0 at its left end.

    Args:
        start: the SFT model's row of the summary, drawn as a level line.
        runs: rows of the summary.
        usual_beta: the beta at which the ptx coefficient is varied.
        judge: who gave `score`; None leaves its panels out.
    """
    dials = _dials(runs, usual_beta)
    rows = [("pretrain_loss", "loss on pretraining text,\nnats per token"), ("reward", "reward")]
    if judge is not None:
        rows.append(("score", _wrapped(judge)))

    def paint(panels: list[Any]) -> None:
        for number, (key, unit) in enumerate(rows):
            for place, dial in enumerate(dials):
                panel = panels[number * len(dials) + place]
                if number == 0:
                    panel.set_title(dial.title)
                _level(panel, start[key], "SFT, the start", color=_START, linewidth=1.2, linestyle=":")
                _lines(panel, runs, dial, key)
                _target(panel, start, runs, usual_beta, key)
                if place == 0:
                    panel.set_ylabel(unit)
                else:
                    panel.sharey(panels[number * len(dials)])
                    panel.tick_params(axis="y", labelleft=False)
                if number == len(rows) - 1:
                    panel.set_xlabel(f"{_SYMBOLS[dial.key]} (log scale)")
        for panel in panels[: len(dials)]:  # beside the title, where no line can run through it
            lines = len(panel.get_legend_handles_labels()[1])
            beside = {"loc": "lower right", "bbox_to_anchor": (1.01, 0.98), "borderaxespad": 0.0}
            panel.legend(ncols=lines, fontsize=8, columnspacing=1.0, handlelength=1.4, **beside)

    return draw("coefficients", paint, columns=len(dials), rows=len(rows), height=2.5)


_SYMBOLS = {"ptx_coef": "ptx coefficient γ", "beta": "KL coefficient β"}
_SHORT = {"ptx_coef": "γ", "beta": "β"}


def _dials(runs: Sequence[Row], usual_beta: float) -> list[Dial]:
    """The columns: a coefficient that takes one value only has none."""
    least = min(run["ptx_coef"] for run in runs)
    both = [
        Dial("ptx_coef", "the pretraining mix", "beta", usual_beta),
        Dial("beta", "the price on KL", "ptx_coef", least),
    ]
    varied = [dial for dial in both if len({run[dial.key] for run in runs}) > 1]
    return varied or both[:1]


def _lines(panel: Any, runs: Sequence[Row], dial: Dial, key: str) -> None:
    """A line for each value of the other coefficient, the usual one thick."""
    place = _axis([run[dial.key] for run in runs])
    others = sorted({run[dial.other] for run in runs}, key=lambda value: (value != dial.usual, value))
    for number, other in enumerate(others):
        line = sorted((run for run in runs if run[dial.other] == other), key=lambda run: run[dial.key])
        if len(line) < 2 and number > 0:
            continue
        x, y = [place(run[dial.key]) for run in line], [run[key] for run in line]
        colour = _USUAL if number == 0 else _OTHERS[(number - 1) % len(_OTHERS)]
        thick = {"linewidth": 1.8, "markersize": 4.5} if number == 0 else {"linewidth": 1.0, "markersize": 3}
        label = f"{_SHORT[dial.other]} = {other:g}"
        panel.plot(x, y, color=colour, marker="o", label=label, **thick)
        if number == 0 and f"{key}_low" in line[0]:
            low, high = ([run[f"{key}_{end}"] for run in line] for end in ("low", "high"))
            panel.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    values = sorted({run[dial.key] for run in runs})
    panel.set_xticks([place(value) for value in values], [f"{value:g}" for value in values])
    panel.tick_params(axis="x", labelsize=8)


def _axis(values: Sequence[float]) -> Callable[[float], float]:
    """Places on a logarithmic axis; 0 stands one usual step left of the smallest."""
    logs = sorted({math.log10(value) for value in values if value > 0})
    if not logs:
        return lambda value: value
    step = (logs[-1] - logs[0]) / (len(logs) - 1) if len(logs) > 1 else 1.0
    return lambda value: math.log10(value) if value > 0 else logs[0] - max(step, 0.2)


def _target(panel: Any, start: Row, runs: Sequence[Row], usual_beta: float, key: str) -> None:
    """What a good coefficient has to reach, as a thin dashed line (see `tax`)."""
    alone = next((run for run in runs if run["ptx_coef"] == 0 and run["beta"] == usual_beta), None)
    shares = {"pretrain_loss": RECOVERED, "reward": COST}
    if alone is None or key not in shares:
        return
    share = shares[key]
    level = alone[key] + share * (start[key] - alone[key])
    text = f"{share:.0%} recovered" if key == "pretrain_loss" else f"{1 - share:.0%} of the gain"
    _level(panel, level, text, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)


def _level(panel: Any, height: float, text: str, **style: Any) -> None:
    """A level line with its name above its right end."""
    panel.axhline(height, **style)
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    panel.annotate(text, (1.0, height), xytext=(-2, 3), ha="right", fontsize=8, **where)


def trade_off(start: Row, runs: Sequence[Row], front: Sequence[str], usual_beta: float) -> str:
    """Reward against what it costs on pretraining text; the Pareto front as a line, its points named."""
    named = {
        f"PPO-ptx, β = {usual_beta:g}": (_PTX, "γ {ptx_coef:g}"),
        "PPO, γ = 0": (_BETA, "β {beta:g}"),
        "both varied": (_BOTH, "γ {ptx_coef:g}, β {beta:g}"),
    }
    kinds: dict[str, list[Row]] = {name: [] for name in named}
    for run in runs:
        kind = 1 if run["ptx_coef"] == 0 else 0 if run["beta"] == usual_beta else 2
        kinds[list(named)[kind]].append(run)
    rows = {"start": start} | {run["name"]: run for run in runs}

    def paint(panels: list[Any]) -> None:
        panel = panels[0]
        best = [_place(rows[name], start) for name in front]
        edge = {"color": INK, "alpha": 0.45, "linewidth": 1.1, "zorder": 1}
        panel.step(*zip(*best, strict=True), where="post", label="Pareto front", **edge)
        panel.axvline(0, color=_START, linewidth=0.8, linestyle=":")
        panel.plot([0], [start["reward"]], "s", color=_START, markersize=7, label="SFT, the start")
        texts = []
        for kind, (colour, text) in named.items():
            places = [_place(run, start) for run in kinds[kind]]
            if places:
                panel.plot(*zip(*places, strict=True), "o", color=colour, markersize=6, label=kind)
            texts += [
                (run["name"] in front, place, text.format(**run))
                for run, place in zip(kinds[kind], places, strict=True)
            ]
        _name_points(panel, texts)
        panel.margins(x=0.12, y=0.12)
        panel.set_xlabel("loss on held-out pretraining text above SFT's, nats per token (less is better)")
        panel.set_ylabel("reward")
        panel.legend()

    return draw("front", paint, height=4.6)


def _place(row: Row, start: Row) -> tuple[float, float]:
    return row["pretrain_loss"] - start["pretrain_loss"], row["reward"]


def _name_points(panel: Any, texts: Sequence[tuple[bool, tuple[float, float], str]]) -> None:
    """Names beside points, those of the front first; one that would cover another is left out."""
    x_range, y_range = (
        max(1e-9, max(place[axis] for _, place, _ in texts) - min(place[axis] for _, place, _ in texts))
        for axis in (0, 1)
    )
    written: list[tuple[float, float]] = []
    for on_front, place, text in sorted(texts, key=lambda entry: not entry[0]):
        x, y = place[0] / x_range, place[1] / y_range
        if any(abs(x - a) < 0.08 and abs(y - b) < 0.05 for a, b in written) and not on_front:
            continue
        written.append((x, y))
        style = {"fontsize": 8, "alpha": 1.0 if on_front else 0.6}
        panel.annotate(text, place, xytext=(6, 4), textcoords="offset points", **style)


def _wrapped(text: str) -> str:
    """A judge's name on two lines where it is long."""
    head, _, tail = text.partition(" of ")
    return f"{head}\nof {tail}" if tail and len(text) > 24 else text
