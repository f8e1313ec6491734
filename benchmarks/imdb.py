"""Sentiment of IMDb reviews: an instruction-tuned SmolLM2-135M beside logistic regression and an LSTM.

    python -m benchmarks.imdb --data DATA --out runs/imdb     # about an hour a seed on two cores, three seeds
    python -m benchmarks.imdb --out runs/imdb --page          # docs/results/imdb.md from what is there

Runs examples/imdb.toml, which can be stopped at any time and goes on where it was. Writes
docs/results/imdb.md and docs/images/imdb.svg. Bound: the tuned model's accuracy is above both baselines', the
paired bootstrap intervals over reviews, seeds averaged, not holding 0. Exit code 1 if it is missed.
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

import sklearn
import torch

from instructgpt.evaluation.sentiment.measures import METRICS
from instructgpt.evaluation.sentiment.settings import BASELINES
from instructgpt.evaluation.sentiment.table import QUOTED, signed, with_interval
from instructgpt.pipeline import RunConfig, run

Summary = Mapping[str, Any]
ROOT = Path(__file__).parent.parent
RESULTS, FIGURE = ROOT / "docs" / "results" / "imdb.md", ROOT / "docs" / "images" / "imdb.svg"
EXAMPLE = ROOT / "examples" / "imdb.toml"
NAMES = {
    "sft": "SmolLM2-135M, instruction-tuned on the reviews",
    "zero_shot": "SmolLM2-135M-Instruct, asked as it is",
    "logistic": "logistic regression on TF-IDF",
    "lstm": "LSTM",
}


def page(summary: Summary, out: Path) -> str:
    """docs/results/imdb.md."""
    counts, systems = summary["reviews"], summary["systems"]
    command = f"python -m benchmarks.imdb --data DATA --out {out}"
    lines = [
        "# Sentiment of film reviews, measured",
        "",
        f"`{command}` on {date.today().isoformat()}: {os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, scikit-learn {sklearn.__version__}. This "
        "page is written by `benchmarks/imdb.py` ([what is measured](../sentiment.md)).",
        "",
        f"IMDb (Maas et al. 2011): {counts['train'] + counts['valid']:,} training reviews, of which "
        f"{counts['valid']} (by film) say when to stop, and {counts['test']:,} test reviews of other films. "
        "The language models and the LSTM see a review's first 64 and last 64 tokens, logistic regression "
        f"all of it. Hashes of the files: train `{summary['data']['train']}`, test "
        f"`{summary['data']['test']}`.",
        "",
        *_table(systems),
        "",
        "Brackets: 95 % bootstrap intervals over reviews; measures are averages over seeds. Precision, "
        "recall and F1 are of the positive class, losses in nats a review.",
        "",
        "![training and test loss](../images/imdb.svg)",
        "",
        "## Against the baselines",
        "",
        _verdict(summary),
        "",
        *_differences(summary),
        "",
        "## What articles quote",
        "",
        "These figures are often quoted for the same task. They come without code, split, seeds or "
        "intervals: **not reproducible from their source**, and on another split than ours.",
        "",
        *_quoted(systems),
        "",
        "## How it was made",
        "",
        *_made(systems),
        "",
    ]
    return "\n".join(lines)


def _table(systems: Summary) -> list[str]:
    names = [metric.name for metric in METRICS]
    lines = [
        f"| model | seeds | {' | '.join(names)} | training loss |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for name, row in systems.items():
        cells = " | ".join(with_interval(row[metric]) for metric in names)
        trained = "–" if row["train_loss"] is None else f"{row['train_loss']:.3f}"
        lines.append(f"| {NAMES.get(name, name)} | {row['seeds']} | {cells} | {trained} |")
    return lines


def _verdict(summary: Summary) -> str:
    first = NAMES.get(next(iter(summary["systems"])), "The first model")
    if summary["above_both"]:
        return f"**Holds**: {first} is above both baselines in accuracy, and neither interval holds 0."
    missed = [
        f"{NAMES[name]} by {-found['mean']:.3f}" if found["mean"] < 0 else f"{NAMES[name]} within the noise"
        for name in BASELINES
        if (found := summary["difference"][_pair(summary, name)]["accuracy"])["low"] <= 0
    ]
    return f"**Missed**: {first} is not clearly above {' and '.join(missed)}."


def _pair(summary: Summary, name: str) -> str:
    return f"{next(iter(summary['systems']))}_over_{name}"


def _differences(summary: Summary) -> list[str]:
    lines = [
        "| less | accuracy, over reviews | accuracy, over films | F1, over reviews | loss, over reviews |",
        "|---|---|---|---|---|",
    ]
    for pair, found in summary["difference"].items():
        name = pair.partition("_over_")[2]
        cells = (
            found["accuracy"],
            summary["difference_by_film"][pair]["accuracy"],
            found["f1"],
            found["loss"],
        )
        lines.append(f"| {NAMES.get(name, name)} | {' | '.join(map(signed, cells))} |")
    return lines


def _quoted(systems: Summary) -> list[str]:
    ours = {"logistic regression": "logistic", "RNN": "lstm"}
    lines = [
        "| model | accuracy, quoted | F1, quoted | nearest of ours | accuracy | F1 |",
        "|---|---|---|---|---|---|",
    ]
    for model, accuracy, f1 in QUOTED:
        name = ours.get(model, next(iter(systems)))
        row = systems[name]
        cells = f"{row['accuracy']['mean']:.3f} | {row['f1']['mean']:.3f}"
        lines.append(f"| {model} | {accuracy} | {f1 or '–'} | {NAMES.get(name, name)} | {cells} |")
    return lines


def _made(systems: Summary) -> list[str]:
    lines = [
        "| model | training, minutes a seed | answering, baselines' training, seconds | chosen |",
        "|---|---|---|---|",
    ]
    for name, row in systems.items():
        minutes = ", ".join(f"{seconds / 60:.1f}" for seconds in row.get("train_seconds", ()))
        chosen = ""
        if name == "logistic":
            costs = ", ".join(f"{cost}: {loss:.3f}" for cost, loss in row["by_cost"].items())
            chosen = (
                f"C = {row['cost']:g} of (log loss in cross-validation) {costs}; {row['features']:,} features"
            )
        elif name == "lstm":
            chosen = f"epochs {', '.join(map(str, row['epoch']))}; {row['vocabulary']:,} tokens with a vector"
        lines.append(
            f"| {NAMES.get(name, name)} | {minutes or '–'} | {row['seconds']:.0f} | {chosen or '–'} |"
        )
    return lines


def main() -> int:
    """Run what is not finished, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data", help="folder with supervised/imdb-*.jsonl.gz")
    parser.add_argument("--out", default="runs/imdb", help="run folder")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the example, as sft_0.lr=2e-5")
    parser.add_argument("--page", action="store_true", help="only write the page of a finished run")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if not arguments.page:
        run(RunConfig(file=str(EXAMPLE), data=arguments.data, out=str(out), set=tuple(arguments.set)))
    summary = json.loads((out / "sentiment" / "summary.json").read_text(encoding="utf-8"))
    text = page(summary, out)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    FIGURE.write_text((out / "sentiment" / "loss.svg").read_text(encoding="utf-8"), encoding="utf-8")
    print(text)
    return 0 if summary["above_both"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
