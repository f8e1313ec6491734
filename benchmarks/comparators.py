"""PPO-ptx, PPO, A2C, RLOO, GRPO, best-of-n distillation and DPO beside one another on the practice world.

Takes finished demo runs (their SFT model, reward model, rankings and prompts), trains all methods on each by
examples/compare.toml, and writes what came out, whatever it says, to docs/results/comparators.md and
docs/images/comparators.svg. Finished stages are skipped: it can be interrupted. All on one thread, and the
seconds of the runs are those that the thread had a core: what else the machine does makes no method slower.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

from instructgpt.evaluation.drawing import label
from instructgpt.evaluation.methods import FIGURE as PLOT
from instructgpt.evaluation.methods_report import TITLES, interval
from instructgpt.pipeline import RunConfig, run

Summary = Mapping[str, Any]
ROOT = Path(__file__).parent.parent
FILE = ROOT / "examples" / "compare.toml"
RESULTS, FIGURE = ROOT / "docs" / "results" / "comparators.md", ROOT / "docs" / "images" / "comparators.svg"
# 97.5 % point of Student's t by degrees of freedom; beyond the table the normal one is near enough.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_COLUMNS = (
    ("hidden utility", ("utility", "mean"), 3),
    ("over SFT", ("over_sft", "mean"), 3),
    ("over PPO-ptx", ("over_budget", "mean"), 3),
    ("KL, nats", ("kl", "mean"), 2),
    ("pretraining loss over SFT", ("tax",), 4),
    ("reward", ("reward",), 2),
    ("replies", ("samples",), 0),
    ("seconds", ("seconds",), 1),
)


@contextmanager
def core_seconds() -> Iterator[None]:
    """One thread, and the clock that the methods time themselves by counts the time it has a core.

    On one thread that is the wall time of a machine that does nothing else.
    """
    threads, clock = torch.get_num_threads(), time.perf_counter
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    try:
        yield
    finally:
        time.perf_counter = clock
        torch.set_num_threads(threads)


def measure(demo: Path, out: Path) -> Summary:
    """Train and measure everything on one demo run, with its seed."""
    lineage = json.loads((demo / "lineage.json").read_text(encoding="utf-8"))
    with core_seconds():
        run(RunConfig(file=str(FILE), data=str(demo), out=str(out), seed=int(lineage["seed"]), jobs=1))
    found: Summary = json.loads((out / "methods" / "summary.json").read_text(encoding="utf-8"))
    return found


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """(mean, half the width of its 95 % interval by Student's t); no interval for one seed."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, _T.get(len(values) - 1, 1.96) * deviation / math.sqrt(len(values))


def page(summaries: Mapping[str, Summary]) -> str:
    """docs/results/comparators.md."""
    first = next(iter(summaries.values()))
    seeds = f"{len(summaries)} seed{'s' if len(summaries) > 1 else ''} ({', '.join(summaries)})"
    kind = (
        "over seeds, by Student's t"
        if len(summaries) > 1
        else "over prompts, by the bootstrap: one seed says nothing of how much another one would differ"
    )
    lines = [
        "# PPO-ptx and its comparators, measured",
        "",
        f"`python -m benchmarks.comparators` on {date.today().isoformat()}: {seeds}, one thread, "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}. This page is "
        "written by `benchmarks/comparators.py`.",
        "",
        "All methods start from one SFT model and learn from one reward model (DPO from the rankings that it "
        "was trained on), with the settings of [`examples/compare.toml`](../../examples/compare.toml); what "
        f"they are: [comparators](../comparators.md). Measured on {first['prompts']} prompts and on text "
        f"that nothing was trained on. Intervals are 95 % {kind}. Seconds are those of sampling, scoring and "
        "learning on one core (the reward model's are wall time).",
        "",
        "How the learning rates were chosen: [log](../log.md).",
        "",
        "![hidden utility against KL](../images/comparators.svg)",
        "",
    ]
    for at, title in TITLES.items():
        lines += _section(summaries, at, title)
    for name, summary in summaries.items():
        lines += [f"## {name}", "", "```", str(summary["table"]).rstrip(), "```", ""]
    return "\n".join(lines)


def _section(summaries: Mapping[str, Summary], at: str, title: str) -> list[str]:
    points: dict[str, list[Summary]] = {}
    for summary in summaries.values():
        for point in summary["points"]:
            if point["at"] == at:
                points.setdefault(point["method"], []).append(point)
    if not points:
        return []
    lines = [f"## At {title}", "", "| | " + " | ".join(name for name, _, _ in _COLUMNS) + " |"]
    lines.append("|---" * (len(_COLUMNS) + 1) + "|")
    starts = [summary["sft"] for summary in summaries.values()]
    for name, rows in [("sft", starts), *points.items()]:
        cells = [_cell(rows, key, digits) for _, key, digits in _COLUMNS]
        missing = "" if len(rows) == len(summaries) else f" ({len(rows)} seeds)"
        lines.append(f"| {label(name)}{missing} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(rows: Sequence[Summary], key: tuple[str, ...], digits: int) -> str:
    """Mean over the seeds with its interval; of one seed with its interval over prompts, where it has one."""
    if key[0] not in rows[0]:
        return ""
    found = [row[key[0]] for row in rows]
    if len(found) == 1 and len(key) > 1 and digits == 3:
        return interval(found[0])
    mean, half = over_seeds([value[key[1]] if len(key) > 1 else value for value in found])
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if half is not None else "")


def main() -> int:
    """Train, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs/verify/seed-0", help="finished demo runs, commas between")
    parser.add_argument("--out", default="runs/comparators", help="folder of what is trained here")
    arguments = parser.parse_args()
    folders = [Path(folder) for folder in arguments.runs.split(",")]
    summaries = {folder.name: measure(folder, Path(arguments.out) / folder.name) for folder in folders}
    text = page(summaries)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    plot = Path(arguments.out) / folders[0].name / "methods" / PLOT
    FIGURE.write_text(plot.read_text(encoding="utf-8"), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
