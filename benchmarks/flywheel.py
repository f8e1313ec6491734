"""The way back, on several seeds: does each round of people's feedback make the model better for people?

Runs examples/flywheel.toml once a seed (finished stages are skipped: it can be interrupted) and writes
docs/results/flywheel.md: hidden utility, promotion and forgetting of every round. Exit code 1 if on a seed,
or over the seeds, the gain of the last round over the first may be zero.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

Summary = Mapping[str, Any]
ROOT = Path(__file__).parent.parent
RECIPE, RESULTS = ROOT / "examples" / "flywheel.toml", ROOT / "docs" / "results" / "flywheel.md"


def flywheel(seed: int, out: Path) -> Summary:
    """Run the example with this seed (or go on with it) and return its summary."""
    command = [
        sys.executable,
        "-m",
        "instructgpt",
        "run",
        str(RECIPE),
        "--seed",
        str(seed),
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: Summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return found


def together(gains: list[Mapping[str, float]]) -> tuple[float, float, float]:
    """(mean, low, high) of the mean gain over the seeds: their intervals' half widths add as variances do,
    and the spread between the seeds is added to them."""
    means = np.array([gain["mean"] for gain in gains])
    within = np.array([(gain["high"] - gain["low"]) / (2 * 1.96) for gain in gains])
    between = means.var(ddof=1) if len(means) > 1 else 0.0
    error = 1.96 * float(np.sqrt((within**2).mean() / len(means) + between / len(means)))
    return float(means.mean()), float(means.mean()) - error, float(means.mean()) + error


def page(summaries: Mapping[int, Summary]) -> tuple[str, int]:
    """docs/results/flywheel.md, and how many bounds are missed."""
    gains = [summary["gain"] for summary in summaries.values()]
    mean, low, high = together(gains)
    missed = sum(gain["low"] <= 0 for gain in gains) + (low <= 0)
    lines = [
        "# The flywheel, measured",
        "",
        f"`python -m benchmarks.flywheel` on {date.today().isoformat()}: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}. {missed} of {len(gains) + 1} bounds "
        "missed. This page is written by `benchmarks/flywheel.py`.",
        "",
        "Each round of [`examples/flywheel.toml`](../../examples/flywheel.toml) serves the model in use, "
        "lets simulated people compare, correct and rate its replies, learns from all they said so far, and "
        "puts the new model to use only if they prefer it with the interval above one half. Utility is "
        "hidden from training, on prompts that nothing was trained on; intervals are 95 % bootstraps over "
        "prompts. Forgetting is the mean over the kinds of task of the best utility of an earlier round less "
        "the utility now (below 0: nothing was lost on average); text loss in nats per token on pretraining "
        "text that was held out.",
        "",
        "| seed | utility, last round less first | above 0 | minutes |",
        "|---|---|---|---|",
    ]
    for seed, summary in summaries.items():
        gain = summary["gain"]
        lines.append(
            f"| {seed} | {gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}] "
            f"| {'yes' if gain['low'] > 0 else '**no**'} | {summary['seconds'] / 60:.0f} |"
        )
    if len(gains) > 1:
        held = "yes" if low > 0 else "**no**"
        lines.append(
            f"| all, with the spread between seeds | {mean:.3f} [{low:.3f}, {high:.3f}] | {held} | |"
        )
    for seed, summary in summaries.items():
        lines += ["", f"## Seed {seed}", "", "```", str(summary["table"]).rstrip(), "```"]
    return "\n".join([*lines, ""]), missed


def main() -> int:
    """Run, check, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="seeds with commas between")
    parser.add_argument("--out", default="runs/flywheel", help="folder name of the runs, before the seed")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    summaries = {seed: flywheel(seed, Path(f"{arguments.out}-{seed}")) for seed in seeds}
    text, missed = page(summaries)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
