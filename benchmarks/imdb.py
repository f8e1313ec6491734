"""Sentiment of IMDb reviews: an instruction-tuned SmolLM2-135M beside logistic regression and an LSTM.

    python -m benchmarks.imdb --data DATA --out runs/imdb              # about an hour a seed on two cores
    python -m benchmarks.imdb --data DATA --out runs/imdb --seeds 1    # one of them, perhaps elsewhere
    python -m benchmarks.imdb --data DATA --out runs/imdb --page       # the page, from what is there

The stages of examples/imdb.toml, a seed at a time; stopped, the same command goes on where it was. What the
models of a seed answered is kept in docs/results/imdb/seed-N.json, and a seed that stands there is not run
again (remove the file to do so): seeds can be made on several machines. Writes docs/results/imdb.md and
docs/images/imdb.svg from all of them. Bound: the tuned model's accuracy is above both baselines', the paired
bootstrap intervals over reviews, seeds averaged, not holding 0. Exit code 1 if it or a seed is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import imdb_seeds
from instructgpt.errors import InstructGPTError
from instructgpt.evaluation.drawing import standalone
from instructgpt.evaluation.sentiment import systems
from instructgpt.evaluation.sentiment.figure import loss_curves
from instructgpt.evaluation.sentiment.measures import METRICS
from instructgpt.evaluation.sentiment.run import summarise
from instructgpt.evaluation.sentiment.settings import BASELINES, SentimentConfig
from instructgpt.evaluation.sentiment.table import QUOTED, signed, with_interval

Summary = Mapping[str, Any]
DOCS = Path(__file__).parent.parent / "docs"
RESULTS, KEPT, FIGURE = DOCS / "results" / "imdb.md", DOCS / "results" / "imdb", DOCS / "images" / "imdb.svg"
SEEDS = (0, 1, 2)
NAMES = {
    "sft": "SmolLM2-135M, instruction-tuned on the reviews",
    "zero_shot": "SmolLM2-135M-Instruct, asked as it is",
    "logistic": "logistic regression on TF-IDF",
    "lstm": "LSTM",
}


def page(summary: Summary, made: Mapping[str, str]) -> str:
    """docs/results/imdb.md; `made` says of each kept file when and on what machine it was made."""
    counts, systems = summary["reviews"], summary["systems"]
    missing = len(SEEDS) - systems["sft"]["seeds"]
    lines = [
        "# Sentiment of film reviews, measured",
        "",
        "`python -m benchmarks.imdb --data DATA`. This page is written by `benchmarks/imdb.py` from the "
        "answers in `docs/results/imdb/` ([what is measured](../sentiment.md)).",
        *(["", f"**{missing} of {len(SEEDS)} seeds have not been run yet.**"] if missing else []),
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
        *(f"- `{name}`: {when}" for name, when in made.items()),
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
        f"{NAMES[name]} ({found['mean']:+.3f}{'' if found['mean'] < 0 else ', within the noise'})"
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


def measure(
    config: SentimentConfig, data: str, out: Path, seeds: Sequence[int], changes: Sequence[str]
) -> None:
    """Train and ask what is not kept yet, a seed after the other."""
    reviews = systems.read_data(config)
    for seed in seeds:
        path = KEPT / f"seed-{seed}.json"
        if not path.exists():
            folder = imdb_seeds.stages([f"sft_{seed}"], data, out, changes)
            found = imdb_seeds.of_seed(config, reviews, folder, seed)
            imdb_seeds.keep(path, reviews, found, imdb_seeds.tuning(seed, changes))
    path = KEPT / "baselines.json"
    if not path.exists():
        imdb_seeds.keep(path, reviews, imdb_seeds.without_seed(config, reviews, out / "base"))


def settings(data: str, out: Path) -> SentimentConfig:
    """Those of the example's last stage."""
    stage = imdb_seeds.plan()["stage"][-1]
    options = dict(option.split("=") for option in stage["option"])
    folder = Path(data) / "supervised"
    return SentimentConfig(
        models=(f"zero_shot={out / 'base'}",),
        train=str(folder / "imdb-train.jsonl.gz"),
        test=str(folder / "imdb-test.jsonl.gz"),
        tokens=int(options["tokens"]),
        curve=int(options["curve"]),
        out=str(out / "answers"),
        dtype=stage["dtype"],
    )


def write(arguments: argparse.Namespace) -> int:
    """Run what is not finished, write the page."""
    out, seeds = Path(arguments.out), arguments.seeds or SEEDS
    imdb_seeds.stages([], arguments.data, out, arguments.set)
    config = settings(arguments.data, out)
    if not arguments.page:
        measure(config, arguments.data, out, seeds, arguments.set)
    reviews = systems.read_data(config)
    kept = {path.stem: imdb_seeds.kept(path, reviews) for path in sorted(KEPT.glob("*.json"))}
    summary = summarise(config, reviews, imdb_seeds.joined(kept))
    text = page(summary, {name: f"{file['date']}, {file['machine']}" for name, file in kept.items()})
    RESULTS.write_text(text, encoding="utf-8")
    FIGURE.write_text(standalone(loss_curves(summary)), encoding="utf-8")
    print(text)
    return 0 if summary["above_both"] and summary["systems"]["sft"]["seeds"] == len(SEEDS) else 1


def main() -> int:
    """Exit code 2: a flag, a file or a model can't be used; 130: interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data", help="folder with supervised/imdb-*.jsonl.gz")
    parser.add_argument("--out", default="runs/imdb", help="run folder")
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, help="seeds to run; all where none")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the example, as sft_0.lr=2e-5")
    parser.add_argument("--page", action="store_true", help="only write the page from what is kept")
    try:
        return write(parser.parse_args())
    except InstructGPTError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted. To mend it: run the same command again; it goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
