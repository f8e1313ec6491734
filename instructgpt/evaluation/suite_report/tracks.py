"""Where dots and bars of an interval plot stand: plain HTML elements, so that they fit any screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructgpt.evaluation.drawing import colour, label


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its ends, its ticks as (place in %, text), and the place of 0 if 0 is to be seen."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    zero: float | None

    def place(self, value: float) -> float:
        """From 0 to 100."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)


def axis(values: Sequence[float | None], around_zero: bool = False) -> Axis:
    """An axis that holds all finite values with some room at its ends.

    Args:
        around_zero: 0 stands in the middle, as for differences.
    """
    shown = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    if around_zero:
        high = max(abs(low), abs(high))
        low = -high
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - room, high + room
    step = nice_step((high - low) / 4)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    span = high - low
    ticks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Axis(
        low,
        high,
        [(round(100 * (tick - low) / span, 2), f"{tick + 0.0:.{digits}f}") for tick in ticks],
        50.0 if around_zero else None,
    )


def nice_step(rough: float) -> float:
    """The round number (1, 2 or 5 times a power of ten) that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))


def track(where: Axis, name: str, found: Mapping[str, Any], text: str, verdict: str = "") -> dict[str, Any]:
    """One line of a plot, as the page's template takes it.

    Args:
        found: `value`, `low`, `high`; the ends may be missing or not finite.
        text: the numbers in words, beside the line.
        verdict: "better", "worse" or nothing, for its colour.
    """
    low, high = (_finite(found.get(end)) for end in ("low", "high"))
    value = _finite(found.get("value"))
    bar = None
    if low is not None and high is not None:
        start = where.place(low)
        bar = (start, round(max(0.6, where.place(high) - start), 2))
    return {
        "name": label(name),
        "colour": colour(name),
        "dot": None if value is None else where.place(value),
        "bar": bar,
        "text": text,
        "verdict": verdict,
    }


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(value: float | None, unit: str = "share", sign: bool = False) -> str:
    """A figure as people read it: three decimals of shares, four significant digits else; – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit in ("points", "%"):
        return f"{value:+.2f}" if sign else f"{value:.2f}"
    if unit == "share" or abs(value) < 10:
        return f"{value:+.3f}" if sign else f"{value:.3f}"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def interval(found: Mapping[str, Any], unit: str = "share", sign: bool = False) -> str:
    """A figure with its interval, where it has one."""
    value, low, high = (_finite(found.get(key)) for key in ("value", "low", "high"))
    if low is None or high is None:
        return number(value, unit, sign)
    return f"{number(value, unit, sign)} [{number(low, unit, sign)}, {number(high, unit, sign)}]"
