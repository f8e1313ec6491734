"""Win rates and ratings as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]


def table(summary: Row) -> str:
    """One line a win rate with what it is over, one a rating, then what a reader should know."""
    lines = _rates(summary)
    if ratings := summary.get("ratings"):
        width = max(len(name) for name in [*ratings, "model"]) + 2
        lines += ["", f"{'model':<{width}}{'Elo':>6}{'interval':>16}{'votes':>8}"]
        for name, row in ratings.items():
            interval = f"[{row['low']:.0f}, {row['high']:.0f}]"
            mark = "" if row["bounded"] else "  won or lost everything: held by a weak prior"
            lines.append(f"{name:<{width}}{row['elo']:>6.0f}{interval:>16}{row['votes']:>8}{mark}")
    return "\n".join([*lines, "", *_notes(summary)])


def _rates(summary: Row) -> list[str]:
    rates: Mapping[str, Row] = summary["win_rate"]
    width = max(len(name) for name in [*rates, "win rate of"]) + 2
    lines = [f"{'win rate of':<{width}}{'ties half':>24}{'at equal length':>24}{'ties':>7}{'prompts':>9}"]
    for name, row in rates.items():
        even = row["at_equal_length"]
        cells = f"{_interval(row):>24}{_interval(even) if even else '-':>24}{row['ties']:>7.0%}"
        lines.append(f"{name:<{width}}{cells}{row['prompts']:>9}")
    return lines


def _interval(row: Row) -> str:
    return f"{row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _notes(summary: Row) -> list[str]:
    rates: Mapping[str, Row] = summary["win_rate"]
    over = " / ".join(dict.fromkeys(row["over"] for row in rates.values()))
    notes = [f"judged by {summary['judge']}; {summary['level']:.0%} intervals over {over}"]
    if summary["labelers"] > 1 and "labelers" not in over:
        notes.append(f"they hold for these {summary['labelers']} labelers, not for others")
    for name, row in rates.items():
        after = row["at_any_time"]["decided_after"]
        if after is not None:
            notes.append(f"{name}: decided after {after} of {row['prompts']} prompts, looking after each one")
        else:
            notes.append(f"{name}: not decided yet if one looks after each prompt")
    if summary.get("consistent") is not None:
        notes.append(
            f"both orders agree on {summary['consistent']:.0%} of the pairs; the reply shown first is chosen "
            f"{summary['first_rate']:.0%} of the time"
        )
        notes.append(f"{summary['unreadable']} pairs without a choice are left out")
    return notes
