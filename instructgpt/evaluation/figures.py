"""The report's plots (see `drawing` for how they look)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.evaluation.drawing import INK, colour, distinct_colours, draw, label

__all__ = [
    "colour",
    "label",
    "losses",
    "over_optimisation",
    "ppo_curves",
    "reward_accuracy",
    "smooth",
    "tax",
    "win_rates",
]

Row = Mapping[str, Any]


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Exponential moving average over about `span` values, corrected for its start."""
    decay, total, weight, out = 1 - 1 / max(1, span), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + (1 - decay)
        out.append(total / weight)
    return out


def series(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows that hold a finite `key`."""
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def losses(runs: Mapping[str, Sequence[Row]]) -> str:
    """Train and validation loss, a panel a run (metrics of pretraining and SFT)."""

    def paint(panels: list[Any]) -> None:
        for panel, (name, rows) in zip(panels, runs.items(), strict=True):
            steps, values = series(rows, "loss")
            panel.plot(steps, values, color=colour(name), alpha=0.25, linewidth=0.8)
            panel.plot(steps, smooth(values, 1 + len(values) // 40), color=colour(name), label="train")
            steps, valid = series(rows, "validation_loss")
            if valid:
                panel.plot(steps, valid, color="#d9485f", marker="o", markersize=4, label="validation")
            if values:
                # the first steps are far above the rest and would flatten it
                late = sorted(values[len(values) // 10 :])
                low, high = min([late[0], *valid]), max([late[int(0.98 * (len(late) - 1))], *valid])
                panel.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.1 * (high - low) + 1e-3)
            panel.set_title(label(name))
            panel.set_xlabel("step")
            panel.set_ylabel("nats per token")
            panel.legend()

    return draw("losses", paint, columns=len(runs))


def reward_accuracy(found: Row) -> str:
    """Bars of accuracy beside the baselines, against the true order and against the labelers.

    Args:
        found: `reward_model` of the evaluation's summary; `order` says what it was measured against.
    """
    order = found.get("order", "the true utility's order")
    sides = [(f"against {order}", found, None)]
    if "labels" in found:
        sides.append(("against the labelers' order", found["labels"], found["labels"].get("true_utility")))

    def paint(panels: list[Any]) -> None:
        for panel, (title, side, ceiling) in zip(panels, sides, strict=True):
            bars = {"reward model": side["accuracy"]}
            bars |= {"true utility": ceiling} if ceiling is not None else {}
            bars |= {label(name): value for name, value in side["baselines"].items()}
            colours = [colour("ppo_ptx") if name == "reward model" else colour("sft") for name in bars]
            _bars(panel, list(bars), list(bars.values()), colours, "{:.3f}")
            panel.set_xlim(0.4, 1.0)
            panel.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
            panel.set_title(title)
            panel.set_xlabel("accuracy on unseen comparisons (0.5 = chance)")

    return draw("reward-accuracy", paint, columns=len(sides), height=2.6)


def _bars(panel: Any, names: Sequence[str], values: Sequence[float], colours: Any, text: str) -> None:
    """Horizontal bars, the first on top, each with its number."""
    places = list(range(len(names)))[::-1]
    panel.barh(places, values, color=colours, height=0.62)
    panel.set_yticks(places, names)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)
    for place, value in zip(places, values, strict=True):
        panel.annotate(
            text.format(value),
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value >= 0 else "right",
            fontsize=9,
        )


_PPO_PANELS = (
    ("reward", "reward", "reward units"),
    ("kl", "KL to the SFT model", "nats per reply"),
    ("length", "length of a reply", "tokens"),
    ("entropy", "entropy of the policy", "nats per token"),
)


def ppo_curves(runs: Mapping[str, Sequence[Row]]) -> str:
    """Reward, KL, length and entropy over iterations, a line a PPO run."""

    def paint(panels: list[Any]) -> None:
        for panel, (key, title, unit) in zip(panels, _PPO_PANELS, strict=True):
            for name, rows in runs.items():
                steps, values = series(rows, key)
                panel.plot(steps, values, color=colour(name), label=label(name))
            panel.set_title(title)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.set_xlabel("iteration")
            panel.set_ylabel(unit)
        if runs:
            panels[0].legend()

    return draw("ppo", paint, columns=2, rows=2, height=2.6)


def over_optimisation(curves: Mapping[str, Sequence[Row]], judge: str | None = "hidden utility") -> str:
    """Reward, and what a judge says, against KL: PPO checkpoints and best-of-n (as in arXiv:2210.10760).

    Args:
        curves: name -> points {kl, reward, utility}, with the ends of intervals as `_low` and `_high`.
        judge: who measured `utility`; None leaves the second panel out.
    """
    kinds = [("reward", "what the reward model sees", "reward")]
    if judge is not None:
        kinds.append(("utility", "what is really gained", judge))

    hues = distinct_colours(curves)

    def paint(panels: list[Any]) -> None:
        for panel, (key, title, unit) in zip(panels, kinds, strict=True):
            for name, points in curves.items():
                style = _CURVE_STYLES.get(name, {"marker": "o"})
                x, y = ([max(0.0, point["kl"]) for point in points], [point[key] for point in points])
                panel.plot(x, y, color=hues[name], markersize=4, label=label(name), **style)
                if points and f"{key}_low" in points[0]:
                    ends = [[point[f"{key}_{end}"] for point in points] for end in ("low", "high")]
                    if x == sorted(x):
                        panel.fill_between(x, *ends, color=hues[name], alpha=0.1, linewidth=0)
                    else:  # a band that turns back would cover itself
                        panel.vlines(x, *ends, color=hues[name], alpha=0.3, linewidth=1.2)
            panel.set_xscale("function", functions=(_root, _square))
            panel.set_xlim(left=0)
            panel.set_xticks(_root_ticks(panel.get_xlim()[1]))
            panel.set_title(title)
            panel.set_xlabel("KL to the SFT model, nats per reply (root scale)")
            panel.set_ylabel(unit)
        panels[0].legend()

    return draw("over-optimisation", paint, columns=len(kinds), height=3.6)


_CURVE_STYLES: dict[str, dict[str, Any]] = {
    "best_of_n": {"linestyle": "--", "marker": "D"},
    "best_of_n_estimated": {"linestyle": ":", "marker": "d"},
}


def _root(x: Any) -> Any:
    return abs(x) ** 0.5


def _square(x: Any) -> Any:
    return x**2


def _root_ticks(top: float) -> list[float]:
    """About six round numbers from 0 to `top`, evenly spread by their roots."""
    ticks = [0.0]
    for i in range(1, 6):
        value = top * (i / 5) ** 2
        digits = 1 - math.floor(math.log10(value)) - 1 if value > 0 else 0
        rounded = round(value, digits)
        if rounded > ticks[-1] and rounded <= top:
            ticks.append(rounded)
    return ticks


def tax(taxes: Mapping[str, float]) -> str:
    """Loss on pretraining text above the SFT model's, a bar a model; below 0 is no tax."""

    def paint(panels: list[Any]) -> None:
        _bars(
            panels[0],
            [label(name) for name in taxes],
            list(taxes.values()),
            [colour(name) for name in taxes],
            "{:+.4f}",
        )
        panels[0].axvline(0, color=INK, linewidth=0.8)
        panels[0].margins(x=0.16)
        panels[0].set_xlabel("loss on held-out pretraining text above SFT's, nats per token")

    return draw("tax", paint, height=0.7 + 0.36 * len(taxes))


def win_rates(rates: Mapping[str, Row], baseline: str) -> str:
    """Win rates with their 95 % intervals.

    Args:
        rates: model -> {mean, low, high}.
        baseline: what they are over, for the axis.
    """

    def paint(panels: list[Any]) -> None:
        panel = panels[0]
        places = list(range(len(rates)))[::-1]
        for place, (name, rate) in zip(places, rates.items(), strict=True):
            panel.plot(
                [rate["low"], rate["high"]], [place, place], color=colour(name), linewidth=5, alpha=0.35
            )
            panel.plot([rate["mean"]], [place], "o", color=colour(name), markersize=7)
            text = f"{rate['mean']:.3f}"
            panel.annotate(
                text,
                (rate["high"], place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        panel.set_yticks(places, [label(name) for name in rates])
        panel.set_ylim(-0.6, len(rates) - 0.4)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="y", visible=False)
        panel.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
        spread = max(0.15, *(abs(rate[end] - 0.5) for rate in rates.values() for end in ("low", "high")))
        panel.set_xlim(max(0.0, 0.5 - 1.15 * spread), min(1.0, 0.5 + 1.15 * spread) + 0.02)
        panel.set_xlabel(f"share of prompts won over {label(baseline)}, ties half, 95 % interval")

    return draw(f"wins-{baseline}", paint, height=0.8 + 0.38 * len(rates))
