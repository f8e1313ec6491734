"""`make verify`: the full certificate, written to docs/results/certificate.md with every seed's figure.

Runs `instructgpt doctor --certify full` and writes the page, passed or not. Exit code 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "certificate.md"


def page(summary: dict[str, Any]) -> str:
    """docs/results/certificate.md of a summary of `doctor --certify`."""
    found = summary["installed"]
    rows, invariants = summary["certificate"], summary["invariants"]
    lines = [
        "# The certificate, measured",
        "",
        f"`instructgpt doctor --certify {summary['certify']} --device {found['device']}` on "
        f"{date.today().isoformat()}: {found['cores']} cores, {platform.machine()}, "
        f"Python {found['python']}, torch {version('torch')}, {summary['seconds'] / 60:.1f} minutes. "
        f"{summary['missed']} of {len(rows) + len(invariants)} bounds missed. This page is written by "
        "`benchmarks/certificate.py`; what the figures mean is said in [certificate](../certificate.md).",
        "",
        "Share of the possible gain in the objective that PPO reached, 1 being the exact optimum. Seeds are "
        "those of the raw weights; KL in nats per reply, the optimum's in brackets; the last figure is the "
        "largest change of any seed when 10 is added to every reward.",
        "",
        "| reference | rewards | beta | mean | at least | worst | at least | seeds | EMA mean, worst | KL "
        "| +10 changes | holds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        worst = "" if row["least_worst"] is None else f"{row['least_worst']:.2f}"
        change = "" if row["shift_change"] is None else f"{row['shift_change']:.4f}"
        lines.append(
            f"| {row['reference']} | {row['rewards']} | {row['beta']:g} | {row['raw_mean']:.4f} | "
            f"{row['least_mean']:.2f} | {row['raw_worst']:.4f} | {worst} | "
            f"{', '.join(f'{value:.4f}' for value in row['raw'])} | "
            f"{row['ema_mean']:.4f}, {row['ema_worst']:.4f} | {row['kl']:.2f} ({row['optimal_kl']:.2f}) | "
            f"{change} | {_word(row['holds'])} |"
        )
    lines += ["", "| invariant | | deviation | at most | holds |", "|---|---|---|---|---|"]
    for row in invariants:
        lines.append(
            f"| {row['number']} | {row['name']} | {row['measured']:.1e} | {row['bound']:.0e} | "
            f"{_word(row['holds'])} |"
        )
    return "\n".join([*lines, ""])


def _word(holds: bool) -> str:
    return "yes" if holds else "**no**"


def main() -> int:
    """Run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/verify/certificate", help="folder of summary.json")
    parser.add_argument("--device", default="cpu", help="where to compute")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "instructgpt", "doctor", "--certify", "full"]
    command += ["--out", arguments.out, "--device", arguments.device]
    summary_path = Path(arguments.out) / "summary.json"
    summary_path.unlink(missing_ok=True)
    code = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if not summary_path.exists():
        return code or 1
    summary = json.loads(summary_path.read_text(encoding="utf-8"))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(page(summary), encoding="utf-8")
    return 1 if summary["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
