"""reliability.svg: a run's calibration at a glance, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instructgpt.runtime.files import write_text

FILE = "reliability.svg"
_LEFT, _RIGHT, _TOP, _MIDDLE = 62, 430, 46, 300  # the curve's frame
_FLOOR, _BASE = 330, 400  # of the bars: highest top, foot
Scale = Callable[[float], float]
_INK, _GREY, _GREEN = "#7d8590", "#8b949e", "#1f9e89"


def write_reliability(folder: Path, calibration: Mapping[str, Any]) -> None:
    """Draw confidence against the share right, and below it how many pairs have which confidence.

    `calibration` is the summary's (`calibration_of`). Equal numbers give equal bytes.
    """
    rows = [row for row in calibration["bins"] if row["pairs"]]
    lowest = min(0.5, *(row["accuracy"] for row in rows))
    lowest = int(lowest * 10) / 10

    def across(confidence: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (confidence - 0.5) / 0.5

    def up(share: float) -> float:
        return _MIDDLE - (_MIDDLE - _TOP) * (share - lowest) / (1 - lowest)

    points = [(across(row["confidence"]), up(row["accuracy"])) for row in rows]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts = [
        *_grid(across, up, lowest),
        _line(across(0.5), up(0.5), across(1), up(1), _INK, 'stroke-dasharray="5 4"'),
        f'<polyline points="{path}" fill="none" stroke="{_GREEN}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_GREEN}"/>' for x, y in points),
        *_bars(rows, across),
        _text(_LEFT, 22, _verdict(calibration), "start", 14),
        _text((_LEFT + _RIGHT) / 2, 442, "confidence: sigmoid(|difference of scores|)"),
        _text(-(_TOP + _MIDDLE) / 2, 16, "share of pairs it is right on", more='transform="rotate(-90)"'),
        _text(_LEFT - 8, (_FLOOR + _BASE) / 2 + 4, "pairs", "end"),
        _text(_RIGHT - 6, _MIDDLE - 10, "dashed: as often right as it says", "end"),
    ]
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 450 456" width="450" height="456" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">'
    )
    write_text(folder / FILE, "\n".join([head, *parts, "</svg>"]) + "\n")


def _verdict(calibration: Mapping[str, Any]) -> str:
    temperature = calibration["temperature"]
    best = "none" if temperature is None else f"{temperature:.2f}"
    return f"Calibration error {calibration['ece']:.3f}, best temperature {best}"


def _grid(across: Scale, up: Scale, lowest: float) -> list[str]:
    parts = []
    for tenth in range(5, 11):
        x = across(tenth / 10)
        parts.append(_line(x, _TOP, x, _MIDDLE, _GREY, 'stroke-opacity="0.3"'))
        parts.append(_text(x, _BASE + 18, f"{tenth / 10:.1f}"))
    for tenth in range(round(lowest * 10), 11):
        y = up(tenth / 10)
        parts.append(_line(_LEFT, y, _RIGHT, y, _GREY, 'stroke-opacity="0.3"'))
        parts.append(_text(_LEFT - 8, y + 4, f"{tenth / 10:.1f}", "end"))
    return parts


def _bars(rows: list[dict[str, Any]], across: Scale) -> list[str]:
    """One bar a bin, the number of its pairs above it."""
    most = max(row["pairs"] for row in rows)
    bars = []
    for row in rows:
        left, right = across(row["from"]) + 2, across(row["to"]) - 2
        height = max(1.0, (_BASE - _FLOOR) * row["pairs"] / most)
        bars.append(
            f'<rect x="{left:.1f}" y="{_BASE - height:.1f}" width="{right - left:.1f}" '
            f'height="{height:.1f}" fill="{_GREY}"/>'
        )
        bars.append(_text((left + right) / 2, _BASE - height - 4, str(row["pairs"]), size=9))
    return bars


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{colour}" {more}/>'


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" {more}>{text}</text>'
