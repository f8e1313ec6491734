"""Plots as inline SVG, drawn on the server; colours come from the style sheet, so they fit both themes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from markupsafe import Markup, escape

from instructgpt.labelling.app.texts import Translator
from instructgpt.labelling.app.wording import duration

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 30
SERIES = 6
"""People drawn apart; the others are drawn together."""
DAY = 86400
_EDGES = (5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)
"""Bounds of the bars of the histogram, seconds: about equal steps of what a person would tell apart."""


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "tick") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="{kind}">{tip}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _svg(parts: Sequence[str], label: str, height: float = HEIGHT) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}" class="plot">'
    return Markup(head + "".join(parts) + "</svg>")  # every text in the parts was escaped


def ticks(largest: float, at_most: int = 5) -> list[float]:
    """Round numbers from 0 to at least `largest`, in steps of 1, 2 or 5 times a power of ten, at least 1."""
    raw = max(largest, 1) / at_most
    power = 10 ** math.floor(math.log10(raw)) if raw >= 1 else 1
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw)
    return [step * i for i in range(math.ceil(max(largest, 1) / step) + 1)]


def _frame(largest: float) -> tuple[list[str], float]:
    """Grid lines and numbers of an axis of counts, and its top value."""
    marks = ticks(largest)
    parts = []
    for mark in marks:
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * mark / marks[-1]
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "grid"), _text(LEFT - 8, y + 4, f"{mark:g}", "end")]
    return parts, marks[-1]


def labels_per_day(buckets: Sequence[tuple[float, str, int]], t: Translator) -> Markup | None:
    """Stacked bars of labels a day by labeler; None without labels.

    Args:
        buckets: (start of the day in seconds since the epoch, labeler, labels).
    """
    if not buckets:
        return None
    totals: dict[str, int] = {}
    for _, name, count in buckets:
        totals[name] = totals.get(name, 0) + count
    busiest = sorted(totals, key=lambda name: (-totals[name], name))[:SERIES]
    first, last = min(b[0] for b in buckets), max(b[0] for b in buckets)
    days = max(round((last - first) / DAY) + 1, 7)
    stacks: list[dict[str, int]] = [{} for _ in range(days)]
    for start, name, count in buckets:
        shown = name if name in busiest else ""
        day = stacks[round((start - first) / DAY)]
        day[shown] = day.get(shown, 0) + count
    parts, top = _frame(max(sum(day.values()) for day in stacks))
    step = (WIDTH - LEFT - RIGHT) / days
    for index, day in enumerate(stacks):
        y = float(HEIGHT - BOTTOM)
        date = datetime.fromtimestamp(first + index * DAY, UTC).strftime("%m-%d")
        for number, name in enumerate([*busiest, ""]):
            if count := day.get(name, 0):
                tall = (HEIGHT - TOP - BOTTOM) * count / top
                y -= tall
                title = f"{date} {name or t('dashboard.others')}: {count}"
                parts.append(_rect(LEFT + index * step + 1, y, min(step - 2, 46), tall, f"s{number}", title))
        if index % math.ceil(days / 10) == 0:
            parts.append(_text(LEFT + index * step + min(step, 48) / 2, HEIGHT - 9, date))
    return _svg(parts, t("dashboard.per-day")) + _legend(busiest, len(totals) > SERIES, t)


def _legend(names: Sequence[str], others: bool, t: Translator) -> Markup:
    shown = [*names, t("dashboard.others")] if others else list(names)
    number_of = [*range(len(names)), SERIES]
    head = '<li><svg viewBox="0 0 10 10" aria-hidden="true">'
    items = [
        f"{head}{_rect(0, 0, 10, 10, f's{n}')}</svg>{escape(name)}</li>"
        for name, n in zip(shown, number_of, strict=False)
    ]
    return Markup('<ul class="legend">' + "".join(items) + "</ul>")


def time_per_task(seconds: Sequence[float], t: Translator) -> Markup | None:
    """A histogram of times in seconds; None without any."""
    if not seconds:
        return None
    counts = [0] * (len(_EDGES) + 1)
    for value in seconds:
        counts[sum(value >= edge for edge in _EDGES)] += 1
    parts, top = _frame(max(counts))
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    for index, count in enumerate(counts):
        tall = (HEIGHT - TOP - BOTTOM) * count / top
        low = duration(t, _EDGES[index - 1]) if index else duration(t, 0)
        high = duration(t, _EDGES[index]) if index < len(_EDGES) else "∞"
        x = LEFT + index * step
        parts.append(_rect(x + 1, HEIGHT - BOTTOM - tall, step - 2, tall, "s0", f"{low} – {high}: {count}"))
        if index < len(_EDGES):
            parts.append(_text(x + step, HEIGHT - 9, short_time(_EDGES[index])))
    return _svg(parts, t("dashboard.per-task"))


def short_time(seconds: int) -> str:
    """`45s`, `2m`, `1h`: for axes."""
    if seconds < 60:
        return f"{seconds}s"
    return f"{seconds / 60:g}m" if seconds < 3600 else f"{seconds / 3600:g}h"


def intervals(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    label: str,
    mark: tuple[float, str] | None = None,
) -> Markup | None:
    """Dots with whiskers between 0 and 1, a row for each name; None without rows.

    Args:
        rows: (name, value, low, high); without low and high there is no whisker.
        mark: a value to compare with, as a vertical line, and its name.
    """
    if not rows:
        return None
    left, line = 170, 30
    height = TOP + line * len(rows) + 44

    def x(value: float) -> float:
        return left + (WIDTH - left - 24) * min(max(value, 0.0), 1.0)

    foot = height - 34
    parts = []
    for percent in range(0, 101, 25):
        parts.append(_line(x(percent / 100), TOP, x(percent / 100), foot, "grid"))
        parts.append(_text(x(percent / 100), foot + 16, f"{percent}%"))
    if mark:
        parts.append(_line(x(mark[0]), TOP, x(mark[0]), foot, "mark"))
        parts.append(_text(x(mark[0]), foot + 30, mark[1], "middle", "tick strong"))
    for index, (name, value, low, high) in enumerate(rows):
        y = TOP + line * (index + 0.5)
        parts.append(_text(left - 14, y + 4, name if len(name) < 22 else name[:20] + "…", "end", "name"))
        if low is not None and high is not None:
            parts.append(_line(x(low), y, x(high), y, "whisker"))
        shown = f"{name}: {value:.0%}" + (
            f" [{low:.0%}, {high:.0%}]" if low is not None and high is not None else ""
        )
        parts.append(
            f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="5" class="s0">'
            f"<title>{escape(shown)}</title></circle>"
        )
    return _svg(parts, label, height)
