"""The alignment-tax dial on the practice world: what the ptx coefficient and beta each bring back.

Takes a finished demo run and sweeps PPO-ptx from the settings below, where PPO alone loses pretraining loss.
Holds the result against the bound: a ptx coefficient recovers at least 80 % of what PPO alone loses, at less
than 15 % of the reward gained, and no beta does. Writes docs/results/tax.md and docs/images/tax.svg. Finished
runs are skipped: it can be interrupted. Exit code 1 if the bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from instructgpt.evaluation.sweep import SweepConfig, run
from instructgpt.evaluation.sweep_report import COEFFICIENTS, FRONT
from instructgpt.rlhf.settings import PPOConfig

Summary = Mapping[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "results" / "tax.md"
FIGURES = {COEFFICIENTS: DOCS / "images" / "tax.svg", FRONT: DOCS / "images" / "tax-front.svg"}
PTX_COEFS = "0,0.1,0.2,0.5,1,2"
BETAS = "0.02,0.1,0.2,0.5,1,2"
PROMPTS = 500
# What differs from the demo's PPO-ptx: steps large enough that PPO alone loses pretraining loss.
PPO: dict[str, Any] = {"lr": 4e-4, "keep": 1, "save_every": 0}


def sweep(demo: Path, out: Path, processes: int) -> Summary:
    """The two dials, each with the other at its first value."""
    settings = json.loads((demo / "ppo_ptx" / "config.json").read_text(encoding="utf-8"))["config"]
    values = {**settings, **PPO, "out": ""}
    known = {name: value for name, value in values.items() if name in PPOConfig.__dataclass_fields__}
    return run(
        SweepConfig(
            out=str(out),
            ptx_coefs=PTX_COEFS,
            betas=BETAS,
            cross=True,
            processes=processes,
            prompts=str(demo / "world" / "prompts_eval.jsonl"),
            count=PROMPTS,
            text=str(demo / "world" / "pretrain_valid.jsonl"),
            judge=f"practice:{demo / 'world'}",
            ppo=PPOConfig(**known),
        )
    )


def page(summaries: Mapping[str, Summary]) -> str:
    """docs/results/tax.md."""
    changes = ", ".join(f"{key} {value}" for key, value in PPO.items())
    missed = sum(not held(summary) for summary in summaries.values())
    lines = [
        "# The alignment-tax dial, measured",
        "",
        f"`python -m benchmarks.tax` on {date.today().isoformat()}: {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}. {missed} of {len(summaries)} runs miss "
        "the bound. This page is written by `benchmarks/tax.py`.",
        "",
        "Bound: a ptx coefficient recovers at least 80 % of the pretraining loss that PPO alone loses "
        "against the SFT model, at less than 15 % of the reward that PPO alone gains, while no beta does "
        "both ([the dial](../sweep.md)).",
        "",
        f"Beside the demo's settings of PPO-ptx: {changes}. Measured on {PROMPTS} prompts and on text that "
        "nothing was trained on; intervals are 95 % bootstraps, over documents for `recovered` and over "
        "prompts for `cost`.",
        "",
        "![pretraining loss, reward and hidden utility against each coefficient](../images/tax.svg)",
        "",
        "![reward against the tax](../images/tax-front.svg)",
        "",
    ]
    for name, summary in summaries.items():
        lines += [f"## {name}", "", f"{'Holds' if held(summary) else '**Missed**'}.", ""]
        lines += _trades(summary)
        lines += ["```", str(summary["table"]).rstrip(), "```", ""]
    return "\n".join(lines)


def held(summary: Summary) -> bool:
    """Whether the bound holds; a run that failed counts as missed."""
    return bool(summary["verdict"] and summary["verdict"]["holds"] and not summary["failed"])


def _trades(summary: Summary) -> list[str]:
    verdict = summary["verdict"]
    if verdict is None:
        return []
    rows = ["| | recovered | cost | |", "|---|---|---|---|"]
    for key, symbol in (("ptx", "ptx coefficient"), ("beta", "beta")):
        for trade in verdict[key]:
            value = trade["ptx_coef"] if key == "ptx" else trade["beta"]
            both = trade["recovered"]["mean"] >= 0.8 and trade["cost"]["mean"] < 0.15
            cells = [_interval(trade["recovered"]), _interval(trade["cost"]), "both" if both else ""]
            rows.append(f"| {symbol} {value:g} | {' | '.join(cells)} |")
    return [*rows, ""]


def _interval(found: Summary) -> str:
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def main() -> int:
    """Sweep, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", default="runs/verify/seed-0", help="finished demo runs, commas between")
    parser.add_argument("--out", default="runs/tax", help="folder of the sweeps")
    parser.add_argument("--processes", type=int, default=1, help="runs trained at the same time")
    arguments = parser.parse_args()
    summaries = {
        folder.name: sweep(folder, Path(arguments.out) / folder.name, arguments.processes)
        for folder in map(Path, arguments.runs.split(","))
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(page(summaries), encoding="utf-8")
    first = Path(arguments.out) / next(iter(summaries))
    for name, path in FIGURES.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((first / name).read_text(encoding="utf-8"), encoding="utf-8")
    print(page(summaries))
    return 0 if all(map(held, summaries.values())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
