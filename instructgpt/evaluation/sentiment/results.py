"""The experiment's answers as result files of a suite, so that the report reads them like any other task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instructgpt import __version__
from instructgpt.data.jsonl import write_jsonl
from instructgpt.evaluation.sentiment.measures import METRICS, scores
from instructgpt.evaluation.sentiment.reviews import LABELS, review_files
from instructgpt.evaluation.sentiment.settings import BASELINES, SentimentConfig
from instructgpt.evaluation.sentiment.systems import Data, System
from instructgpt.evaluation.suite.results import data_hash, number, place
from instructgpt.runtime.files import write_json

TASK = "imdb_sentiment"
VERSION = 1


def write_results(
    config: SentimentConfig,
    data: Data,
    found: Mapping[str, System],
    rows: Mapping[str, Mapping[str, Any]],
    command: str,
) -> None:
    """Write `results/NAME/imdb_sentiment.jsonl` and `.json` of every system, in place of earlier ones.

    Args:
        rows: of each system every measure's `mean, low, high, n`.
        command: that asked for it.
    """
    files = [Path(part) for part in review_files(config.test).split(",")]
    if files[0].is_dir():
        files = sorted(files[0].glob("[np]*/*.txt"))
    shared = {
        "task": TASK,
        "version": VERSION,
        "source": "Maas et al. 2011. Seeds averaged: a review's record holds the answers of all of them.",
        "data": {"files": [str(file) for file in files[:4]], "sha256": data_hash(files)},
        "items": len(data.test.reviews),
        "shots": 0,
        "seed": config.seed,
        "limit": 0,
        "options": {"tokens": config.tokens, "valid_share": config.valid_share},
        "chat": True,
        "headline": METRICS[0].name,
        "tokens": None,
        "command": command,
        "package": __version__,
        "device": config.device,
        "dtype": config.dtype,
        "finished": True,
    }
    for order, (name, system) in enumerate(found.items()):
        records = [_record(data, system, i) for i in range(len(data.test.reviews))]
        path = place(config.out, name, TASK)
        write_jsonl(path.with_suffix(".jsonl"), records)
        spec = "+".join(map(str, config.checkpoints[name])) if name in config.checkpoints else BASELINES[name]
        write_json(
            path,
            {
                **shared,
                "model": {"name": name, "spec": spec, "identity": system.identity},
                "identity": system.identity,
                "metrics": _metrics(rows[name]),
                "seconds": round(system.seconds, 2),
                "place": order,
            },
        )


def _record(data: Data, system: System, i: int) -> dict[str, Any]:
    review, p = data.test.reviews[i], system.probabilities[:, i]
    shown = {
        "prompt": review.text,
        "gold": LABELS[review.label],
        "chosen": LABELS[int(p.mean() > 0.5)],
        "probability of positive": ", ".join(f"{value:.3f}" for value in p),
    }
    return {"id": review.id, "group": "", "scores": scores(review.label, p), "shown": shown}


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for metric in METRICS:
        value = row[metric.name]
        ends = {"value": number(value["mean"]), "low": number(value["low"]), "high": number(value["high"])}
        found[metric.name] = {**ends, "n": value["n"], "better": metric.better, "unit": metric.unit}
    return found
