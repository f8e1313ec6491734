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
                panel.axhline(start[key], color=_START, linewidth=1.2, linestyle=":", label="SFT, the start")
                _lines(panel, runs, dial, key)
                _target(panel, start, runs, usual_beta, key)
                if place == 0:
                    panel.set_ylabel(unit)
                else:
                    panel.sharey(panels[number * len(dials)])
                if number == len(rows) - 1:
                    panel.set_xlabel(f"{_SYMBOLS[dial.key]} (log scale)")
        panels[0].legend()
        if len(dials) > 1:
            panels[1].legend()

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
    panel.axhline(level, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
    panel.annotate(
        text,
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )


def trade_off(start: Row, runs: Sequence[Row], front: Sequence[str], usual_beta: float) -> str:
    """Reward against what it costs on pretraining text; the Pareto front as a line, its points named."""
    kinds = {
        "PPO-ptx": (_PTX, [run for run in runs if run["ptx_coef"] > 0 and run["beta"] == usual_beta]),
        "PPO, γ = 0": (_BETA, [run for run in runs if run["ptx_coef"] == 0]),
        "both varied": (_BOTH, [run for run in runs if run["ptx_coef"] > 0 and run["beta"] != usual_beta]),
    }
    names = {"start": start} | {run["name"]: run for run in runs}

    def paint(panels: list[Any]) -> None:
        panel = panels[0]
        best = [names[name] for name in front]
        x = [row["pretrain_loss"] - start["pretrain_loss"] for row in best]
        panel.step(
            x,
            [row["reward"] for row in best],
            where="post",
            color=INK,
            alpha=0.45,
            linewidth=1.1,
            label="Pareto front",
            zorder=1,
        )
        panel.axvline(0, color=_START, linewidth=0.8, linestyle=":")
        panel.plot([0], [start["reward"]], "s", color=_START, markersize=7, label="SFT, the start")
        for label, (colour, rows) in kinds.items():
            if rows:
                xs = [row["pretrain_loss"] - start["pretrain_loss"] for row in rows]
                panel.plot(xs, [row["reward"] for row in rows], "o", color=colour, markersize=6, label=label)
        for run in runs:
            on_front = run["name"] in front
            panel.annotate(
                f"γ {run['ptx_coef']:g}, β {run['beta']:g}",
                (run["pretrain_loss"] - start["pretrain_loss"], run["reward"]),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
                alpha=1.0 if on_front else 0.55,
            )
        panel.margins(x=0.12, y=0.12)
        panel.set_xlabel("loss on held-out pretraining text above SFT's, nats per token (less is better)")
        panel.set_ylabel("reward")
        panel.legend()

    return draw("front", paint, height=4.6)


def _wrapped(text: str) -> str:
    """A judge's name on two lines where it is long."""
    head, _, tail = text.partition(" of ")
    return f"{head}\nof {tail}" if tail and len(text) > 24 else text
