"""Weights between SFT and PPO against the ptx mix: which of them trades the alignment tax better?

Takes a finished demo run. For PPO and for PPO without a price on KL ("drift") it measures the models on the
line of weights from SFT to the end of training, the checkpoints on the way there, and those of PPO-ptx at the
same settings, all on the same held-out prompts and text. Writes docs/results/interpolation.md and
docs/images/interpolation.svg. What was measured is kept in --out: it can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from instructgpt.data.records import read_prompts, read_texts
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.drawing import label, standalone
from instructgpt.evaluation.interpolation import Ground, row, traded
from instructgpt.evaluation.interpolation_figure import Track, tax_curve, track_title
from instructgpt.evaluation.judge import load_judge
from instructgpt.runtime.checkpoint import checkpoints, final_checkpoint
from instructgpt.runtime.device import pick_device, tune_malloc
from instructgpt.runtime.files import write_json
from instructgpt.runtime.metrics import Progress
from instructgpt.scoring.reward import load_reward

Found = Mapping[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
RESULTS, FIGURE = DOCS / "results" / "interpolation.md", DOCS / "images" / "interpolation.svg"
PAIRS = {"ppo": "ppo_ptx", "ppo_drift": "ppo_ptx_drift"}
"""PPO alone -> PPO-ptx at the same settings."""
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
PROMPTS, MAX_NEW, SEED = 500, 48, 0


def measure(run: Path, out: Path) -> dict[str, Any]:
    """Every model's figures: `start`, and for each pair `weights`, `path`, `ptx` (lists, ends last)."""
    began, device, sft = time.monotonic(), pick_device("auto"), final_checkpoint(run / "sft")
    tune_malloc()
    ground = Ground(
        reference=Candidate.load("sft", sft, device),
        reward=load_reward(str(final_checkpoint(run / "reward")), device),
        judge=load_judge(f"practice:{run / 'world'}", SEED, device),
        prompts=read_prompts(run / "world" / "prompts_eval.jsonl")[:PROMPTS],
        texts=read_texts(str(run / "world" / "pretrain_valid.jsonl")),
        max_new=MAX_NEW,
        seed=SEED,
        folder=out,
        device=device,
    )
    steps = 1 + sum(len(ALPHAS) + len(_path(run, a)) + len(_path(run, b)) for a, b in PAIRS.items())
    progress = Progress("interpolation", steps)

    def one(name: str, made_of: Sequence[Path], alpha: float | None = None) -> Found:
        progress.note = name
        found = ground.measure(name, made_of, alpha)
        progress.advance()
        return found

    start = one("sft", [sft])
    summary: dict[str, Any] = {"start": row(start, start, SEED), "documents": len(ground.texts)}
    for alone, mixed in PAIRS.items():
        path = [one(f"{alone}-{step.name}", [step]) for step in _path(run, alone)]
        ptx = [one(f"{mixed}-{step.name}", [step]) for step in _path(run, mixed)]
        end = path[-1]
        ends = [sft, final_checkpoint(run / alone)]
        between = [one(f"{alone}-alpha-{alpha:g}", ends, alpha) for alpha in ALPHAS]
        kinds = {"weights": [*between, end], "path": path, "ptx": ptx}
        summary[alone] = {
            kind: [row(found, start, SEED) | traded(found, start, end, SEED) for found in models]
            for kind, models in kinds.items()
        }
    progress.close()
    summary |= {"prompts": len(ground.prompts), "seconds": time.monotonic() - began}
    write_json(out / "summary.json", summary)
    return summary


def _path(run: Path, name: str) -> list[Path]:
    return checkpoints(run / name)


def figure(summary: Found) -> str:
    """docs/images/interpolation.svg."""
    panels: dict[str, list[Track]] = {}
    for alone, mixed in PAIRS.items():
        start, found = summary["start"], summary[alone]
        texts = [f"α {alpha:g}" if alpha in (0.3, 0.5, 0.7) else "" for alpha in ALPHAS]
        panels[label(alone)] = [
            Track(
                alone,
                track_title(alone, "weights"),
                [start, *found["weights"]],
                ["α 0", *texts, "α 1"],
                "weights",
            ),
            _checkpoints("best_of_n", alone, [start, *found["path"]]),
            _checkpoints(mixed, mixed, [start, *found["ptx"]]),
        ]
    return tax_curve(panels, "hidden utility")


def _checkpoints(tint: str, name: str, rows: Sequence[Found]) -> Track:
    return Track(tint, track_title(name, "path"), rows, [""] * len(rows), "path")


def page(summary: Found, run: str) -> str:
    """docs/results/interpolation.md."""
    lines = [
        "# Weights between SFT and PPO, measured",
        "",
        f"By the command below on {date.today().isoformat()}: {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, {summary['seconds'] / 60:.1f} minutes. This page is written by "
        "`benchmarks/interpolate.py`.",
        "",
        "```",
        f"python -m benchmarks.interpolate --run {run}",
        "```",
        "",
        "Which of three dials gives back the alignment tax at the least price: weights between SFT and PPO "
        "([`convert`](../models.md)), stopping PPO earlier, or mixing pretraining text in (PPO-ptx)?",
        "",
        f"{summary['prompts']} prompts and {summary['documents']} documents that nothing was trained on, one "
        "sampled reply each with the same random keys for all models; 95 % bootstrap intervals. *Recovered* "
        "is the share of the pretraining loss that PPO alone loses against SFT and this model does not; "
        "*cost* the share of the reward that PPO alone gains and this model does not "
        "([definitions](../sweep.md)).",
        "",
        "![reward and hidden utility against the tax](../images/interpolation.svg)",
        "",
    ]
    for alone, mixed in PAIRS.items():
        lines += [f"## {label(alone)}", "", *_findings(summary, alone), ""]
        lines += [
            "| model | reward | hidden utility | KL | loss above SFT's | recovered | cost |",
            "|---|---|---|---|---|---|---|",
            _cells("SFT (α 0)", summary["start"]),
        ]
        found = summary[alone]
        names = [*(f"α {alpha:g}" for alpha in ALPHAS), f"{label(alone)} (α 1)"]
        lines += [_cells(name, each) for name, each in zip(names, found["weights"], strict=True)]
        for kind, name in (("path", alone), ("ptx", mixed)):
            rows = found[kind] if kind == "ptx" else found[kind][:-1]
            count = len(found[kind])
            lines += [
                _cells(f"{label(name)}, checkpoint {i} of {count}", each) for i, each in enumerate(rows, 1)
            ]
        lines.append("")
    return "\n".join(lines)


def _findings(summary: Found, alone: str) -> list[str]:
    """What the numbers say, in sentences."""
    start, weights, ptx = summary["start"], summary[alone]["weights"], summary[alone]["ptx"][-1]
    end, name, mixed = weights[-1], label(alone), label(PAIRS[alone])
    if end["lost"] <= 0:
        return [f"{name} lost no pretraining loss: there is no tax to trade."]
    best = max(weights[:-1], key=lambda each: each["score"])
    good = [f"{each['alpha']:g}" for each in weights[:-1] if each["good"]]
    reached = f"α {', '.join(good)}" if good else "no α"
    gained = end["reward"] - start["reward"]
    return [
        f"- It adds {end['lost']:+.4f} nats per token to SFT's loss and gains {gained:+.3f} reward.",
        f"- Hidden utility: {start['score']:.3f} (SFT), {end['score']:.3f} ({name}), {ptx['score']:.3f} "
        f"({mixed}). The largest between SFT and {name} is {best['score']:.3f}, at α {best['alpha']:g}, "
        "which is chosen here by that utility itself.",
        f"- At least 80 % recovered at less than 15 % of the reward: {reached} does so; {mixed} recovers "
        f"{ptx['recovered']['mean']:.0%} at {ptx['cost']['mean']:.0%}.",
    ]


def _cells(name: str, found: Found) -> str:
    cells = [
        f"{found['reward']:.3f} [{found['reward_low']:.3f}, {found['reward_high']:.3f}]",
        f"{found['score']:.3f} [{found['score_low']:.3f}, {found['score_high']:.3f}]",
        f"{found['kl']:.2f}",
        f"{found['lost']:+.4f} [{found['lost_low']:+.4f}, {found['lost_high']:+.4f}]",
    ]
    for key in ("recovered", "cost"):
        each = found.get(key)
        cells.append(f"{each['mean']:.0%} [{each['low']:.0%}, {each['high']:.0%}]" if each else "")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    """Measure, draw, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/verify/seed-0", help="a finished demo run")
    parser.add_argument("--out", default="runs/interpolation", help="folder of the measurements")
    parser.add_argument("--draw", action="store_true", help="write page and plot again from summary.json")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.draw:
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    else:
        summary = measure(Path(arguments.run), out)
    for path, text in ((RESULTS, page(summary, arguments.run)), (FIGURE, standalone(figure(summary)))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(page(summary, arguments.run))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
