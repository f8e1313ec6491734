"""Tables of races: on stdout, and as a page for docs/results/."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

Found = Mapping[str, Any]
_LIMITS = {"float32": "GFLOP/s float32", "bfloat16": "GFLOP/s bfloat16", "read": "GB/s read"}


def where(arguments: Sequence[str]) -> dict[str, Any]:
    """What was called, when, on what."""
    return {
        "arguments": list(arguments),
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    with_names = Path("/proc/cpuinfo")
    if with_names.exists():
        for line in with_names.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def page(result: Found) -> str:
    """docs/results/speed-NAME.md."""
    name = result["benchmark"]
    command = " ".join(["python -m benchmarks." + name, *result["arguments"]])
    missed = sum(race["missed"] for race in result["races"])
    floors = sum(len(race["floors"]) for race in result["races"])
    lines = [
        f"# {result['title']}",
        "",
        "```",
        command,
        "```",
        "",
        f"{result['date']}, {result['cores']} cores, {result['processor']}, {result['system']}: {missed} of "
        f"{floors} bounds missed. This page is written by `benchmarks/{name}.py`; how it measures is said in "
        "[performance](../performance.md).",
        "",
        f"Each figure is the median of {result['rounds']} turns with the least and the largest in brackets. "
        "A turn is a process of its own, and the contenders take turns; times as fast is against the first "
        "line in the same round. Memory is the largest peak of any turn (VmHWM).",
        "",
    ]
    for race in result["races"]:
        lines += [f"## {race['case']}: {race['title']}", "", table(race), ""]
    return "\n".join(lines)


def table(race: Found) -> str:
    """One race: contenders, floors, the machine, versions, failures."""
    rows = race["contenders"]
    flops = any("flops" in row["achieved"] for row in rows)
    moved = any("bytes" in row["achieved"] for row in rows)
    heads = ["", "seconds" if race["seconds"] else race["unit"], "times as fast", "peak MiB"]
    heads += ["GFLOP/s", "of float32 peak", "of bfloat16 peak"] if flops else []
    heads += ["GB/s", "of read rate"] if moved else []
    lines = [_row(heads), "|---" * len(heads) + "|"]
    for row in rows:
        rate = _inverse(row["rate"]) if race["seconds"] else row["rate"]
        cells = [row["name"], _shown(rate), _shown(row["ratio"]), f"{row['memory']:,.0f}"]
        if flops:
            cells += [_shown(row["achieved"].get("flops"), 1e-9)]
            cells += [_shown(row["share"].get(name)) for name in ("float32", "bfloat16")]
        if moved:
            cells += [_shown(row["achieved"].get("bytes"), 1e-9), _shown(row["share"].get("read"))]
        lines.append(_row(cells))
    if race["floors"]:
        lines += ["", "| bound | measured | at least, at most | holds |", "|---|---|---|---|"]
        lines += [_row(_floor_cells(floor)) for floor in race["floors"]]
    return "\n".join([*lines, "", *_notes(race)])


def _floor_cells(floor: Found) -> list[str]:
    memory = floor["of"] == "memory"
    against = f"{floor['against']}'s" if floor["against"] else f"the machine's {_LIMITS[floor['of']]}"
    what = "peak memory" if memory else "rate" if floor["of"] == "rate" else "share"
    name = f"{floor['contender']}: {what} over {against}"
    bound = f"{'at most' if memory else 'at least'} {floor['bound']:g}"
    return [name, _shown(floor["measured"]), bound, "yes" if floor["holds"] else "**no**"]


def _notes(race: Found) -> list[str]:
    lines = []
    if race["machine"]:
        best = ", ".join(f"{race['machine'][key] / 1e9:.0f} {text}" for key, text in _LIMITS.items())
        lines.append(f"The machine's best in the processes of the turns: {best}.")
    for row in race["contenders"]:
        versions = ", ".join(f"{name} {value}" for name, value in row["versions"].items())
        facts = "; ".join(f"{name} {_value(value)}" for name, value in row["facts"].items())
        lines.append(f"{row['name']}: {versions}{'; ' + facts if facts else ''}.")
    lines += [f"{name} failed: {' '.join(text.split())[-300:]}" for name, text in race["failures"].items()]
    return ["  \n".join(lines)]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(found: Found | None, times: float = 1.0) -> str:
    if found is None:
        return ""
    middle, least, largest = (_number(found[key] * times) for key in ("median", "least", "largest"))
    return middle if found["count"] == 1 else f"{middle} ({least}..{largest})"


def _inverse(found: Found) -> Found:
    """Rates as the seconds of one unit."""
    ends = {"median": "median", "least": "largest", "largest": "least"}
    return {name: 1 / found[other] for name, other in ends.items()} | {"count": found["count"]}


def _number(value: float) -> str:
    """Three figures, but no fewer than stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
