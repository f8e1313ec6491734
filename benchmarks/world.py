"""`make verify`: the demo on several seeds, held against what the practice world must show.

Runs `instructgpt demo` once a seed (finished stages are skipped: it can be interrupted), checks every bound
below, and writes docs/results/world.md with the figures, passed or not, and the README's plot of the first
seed. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from instructgpt.evaluation.figures import over_optimisation

Summary = dict[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
RESULTS, FIGURE = DOCS / "results" / "world.md", DOCS / "images" / "demo.svg"


def _baseline(s: Summary) -> float:
    return max(s["reward_model"]["baselines"].values())


def _worst_tax_share(s: Summary) -> float:
    """Loss on pretraining text that PPO-ptx adds, as a share of what PPO alone adds, in the drift pair."""
    return s["tax"]["ppo_ptx_drift"] / s["tax"]["ppo_drift"]


def _overoptimised(s: Summary) -> tuple[float, float]:
    """(reward gained, utility lost) from the best point of the beta-near-0 run to its last."""
    curve = s["curves"]["ppo_drift"]
    best = max(curve, key=lambda point: point["utility"])
    return curve[-1]["reward"] - best["reward"], best["utility"] - curve[-1]["utility"]


# What holds on every seed: name, figure, bound, whether the figure is above or below it.
EACH: list[tuple[str, Callable[[Summary], float], str, float]] = [
    ("SFT utility", lambda s: s["models"]["sft"]["utility"], ">", 0.3),
    ("SFT utility", lambda s: s["models"]["sft"]["utility"], "<", 0.7),
    ("labelers agree", lambda s: s["reward_model"]["agreement"], ">", 0.70),
    ("labelers agree", lambda s: s["reward_model"]["agreement"], "<", 0.76),
    ("reward model, true order", lambda s: s["reward_model"]["accuracy"], ">=", 0.70),
    (
        "reward model / true utility, both against labels",
        lambda s: s["reward_model"]["labels"]["accuracy"] / s["reward_model"]["labels"]["true_utility"],
        ">=",
        0.77,
    ),
    (
        "reward model above the best baseline",
        lambda s: s["reward_model"]["accuracy"] - _baseline(s),
        ">=",
        0.05,
    ),
    ("PPO-ptx over best SFT, low end", lambda s: s["win_rate"]["ppo_ptx_over_sft"]["low"], ">", 0.53),
    ("tax of PPO alone, drift pair", lambda s: s["tax"]["ppo_drift"], ">=", 0.02),
    ("share of it left with ptx", _worst_tax_share, "<=", 0.5),
    ("beta near 0: reward gained past the best utility", lambda s: _overoptimised(s)[0], ">", 0.0),
    ("beta near 0: utility lost past the best", lambda s: _overoptimised(s)[1], ">", 0.02),
    ("minutes", lambda s: s["seconds"] / 60, "<=", 10.0),
    ("peak memory, MiB", lambda s: s["peak_memory_mib"], "<=", 3072.0),
]


def _gain_share(summaries: list[Summary]) -> float:
    """Mean utility gain of PPO-ptx over SFT as a share of best-of-4's."""
    ours = sum(s["gain"]["over_sft"]["ppo_ptx"]["mean"] for s in summaries)
    return ours / sum(s["gain"]["over_sft"]["best_of_4"]["mean"] for s in summaries)


# What holds for the mean over the seeds.
TOGETHER: list[tuple[str, Callable[[list[Summary]], float], str, float]] = [
    (
        "PPO-ptx over best SFT, mean win rate",
        lambda all_: sum(s["win_rate"]["ppo_ptx_over_sft"]["mean"] for s in all_) / len(all_),
        ">",
        0.57,
    ),
    ("PPO-ptx's utility gain / best-of-4's", _gain_share, ">=", 0.5),
]

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
}


def demo(seed: int, out: Path) -> Summary:
    """Run the demo with this seed (or go on with it) and return its summary."""
    command = [sys.executable, "-m", "instructgpt", "demo", "--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: Summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary


def check(summaries: dict[int, Summary]) -> tuple[list[str], int]:
    """Table rows of all bounds, and how many are missed."""
    rows, missed = [], 0
    for name, figure, sign, bound in EACH:
        values = [figure(s) for s in summaries.values()]
        good = all(_HOLDS[sign](value, bound) for value in values)
        missed += not good
        shown = " | ".join(f"{value:.3f}" for value in values)
        rows.append(f"| {name} | {sign} {bound:g} | {shown} | {'yes' if good else '**no**'} |")
    for name, figure_of_all, sign, bound in TOGETHER:
        value = figure_of_all(list(summaries.values()))
        good = _HOLDS[sign](value, bound)
        missed += not good
        spread = " | ".join([f"{value:.3f}", *[""] * (len(summaries) - 1)])
        rows.append(
            f"| {name} (over the seeds) | {sign} {bound:g} | {spread} | {'yes' if good else '**no**'} |"
        )
    return rows, missed


def page(summaries: dict[int, Summary], rows: list[str], missed: int) -> str:
    """docs/results/world.md."""
    seeds = " | ".join(f"seed {seed}" for seed in summaries)
    lines = [
        "# The practice world, measured",
        "",
        f"`make verify` on {date.today().isoformat()}: {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}. {missed} of {len(rows)} bounds missed. This page is written by "
        "`benchmarks/world.py`; intervals are 95 % bootstraps over prompts, ties count half.",
        "",
        f"| bound | | {seeds} | holds |",
        "|---|---|" + "---|" * (len(summaries) + 1),
        *rows,
        "",
    ]
    for seed, summary in summaries.items():
        lines += [f"## Seed {seed}", "", "```", str(summary["table"]).rstrip(), "```", ""]
    return "\n".join(lines)


def standalone(svg: str) -> str:
    """An inline plot of the report as a file of its own: namespaces, and a page's colours on white."""
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = svg.replace("<svg", f'<svg {spaces} style="color:#1f2328;--rule:#d0d7de;background:#fff"', 1)
    return svg if svg.endswith("\n") else svg + "\n"


def main() -> int:
    """Run, check, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2", help="seeds with commas between")
    parser.add_argument("--out", default="runs/verify", help="folder of the runs")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    summaries = {seed: demo(seed, Path(arguments.out) / f"seed-{seed}") for seed in seeds}
    rows, missed = check(summaries)
    text = page(summaries, rows, missed)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(standalone(over_optimisation(summaries[seeds[0]]["curves"])), encoding="utf-8")
    print(text)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
