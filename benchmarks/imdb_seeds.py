"""The answers of one seed of the sentiment experiment, kept in a file, and the seeds joined again.

docs/results/imdb/seed-N.json holds what the tuned model and the LSTM of that seed answered to the test
reviews, docs/results/imdb/baselines.json the same of what has no seed: the model that was not tuned, and
logistic regression. Labels and texts are not in them. So a checkpoint of half a GiB need not be kept.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import tomli_w
import torch

from instructgpt.evaluation.sentiment import parts, systems
from instructgpt.evaluation.sentiment.measures import Array
from instructgpt.evaluation.sentiment.settings import SentimentConfig
from instructgpt.evaluation.sentiment.systems import Data, System
from instructgpt.pipeline import RunConfig, run
from instructgpt.runtime.files import write_json

Kept = dict[str, Any]
EXAMPLE = Path(__file__).parent.parent / "examples" / "imdb.toml"
ORDER = ("sft", "zero_shot", "logistic", "lstm")
"""Of the systems on the page; the verdict is about the first."""
_FURTHEST = 36.0
"""Log-odds beyond that are those of 0 and 1 in double precision."""


def plan() -> dict[str, Any]:
    """The example."""
    return tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))


def stages(names: Sequence[str], data: str, out: Path, changes: Sequence[str] = ()) -> Path:
    """Run these stages of the example and those before all seeds; returns the folder of the last.

    Args:
        names: as `sft_0`; none = the weights and the reviews alone.
        data: folder with supervised/imdb-*.jsonl.gz.
        out: run folder, shared by the seeds.
        changes: to the example, as `sft_0.lr=2e-5`; those of other stages are left out.

    Raises:
        InstructGPTError: a stage failed or was stopped; the same call goes on from there.
    """
    wanted, example = ("base", "reviews", *names), plan()
    example["stage"] = [stage for stage in example["stage"] if stage.get("name", stage["verb"]) in wanted]
    example["summary"] = wanted[-1]
    path = out / f"{wanted[-1]}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(example), encoding="utf-8")
    mine = tuple(change for change in changes if change.partition(".")[0] in wanted)
    run(RunConfig(file=str(path), data=data, out=str(out), set=mine))
    return out / wanted[-1]


def of_seed(config: SentimentConfig, data: Data, folder: Path, seed: int) -> Mapping[str, System]:
    """The tuned model in `folder` and the LSTM of that seed, asked about the test reviews."""
    settings = replace(config, seed=seed, seeds=1)
    store = parts.Store(Path(config.out) / f"seed-{seed}")
    return {
        "sft": systems.language(settings, data, store, "sft", [folder], _nothing),
        "lstm": systems.lstm(settings, data, store, _nothing),
    }


def without_seed(config: SentimentConfig, data: Data, base: Path) -> Mapping[str, System]:
    """The model that was not tuned, and logistic regression."""
    store = parts.Store(Path(config.out) / "baselines")
    return {
        "zero_shot": systems.language(config, data, store, "zero_shot", [base], _nothing),
        "logistic": systems.logistic(data, store, _nothing),
    }


def keep(path: Path, data: Data, found: Mapping[str, System]) -> None:
    """Write answers to a file, with the date and the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    kept = {
        "date": date.today().isoformat(),
        "machine": f"{machine}, torch {torch.__version__}, scikit-learn {sklearn.__version__}",
        "data": data.identity,
        "systems": {name: _row(system) for name, system in found.items()},
    }
    write_json(path, kept)


def kept(path: Path, data: Data) -> Kept:
    """What `keep` wrote.

    Raises:
        SystemExit: the file is about other reviews, or other views of them.
    """
    found: Kept = json.loads(path.read_text(encoding="utf-8"))
    if found["data"] != data.identity:
        raise SystemExit(f"{path} is about other data ({found['data']}, not {data.identity}): move it away")
    return found


def joined(kept: Sequence[Kept]) -> dict[str, System]:
    """All systems with the seeds of all files, in the page's order."""
    names = {name for file in kept for name in file["systems"]}
    return {
        name: _join([_system(file["systems"][name]) for file in kept if name in file["systems"]])
        for name in ORDER
        if name in names
    }


def log_odds(probabilities: Array) -> Array:
    """log p / (1 - p): four decimals of it keep a small loss exact, which those of p do not."""
    with np.errstate(divide="ignore"):
        found = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip(found, -_FURTHEST, _FURTHEST)


def _row(system: System) -> Kept:
    return {
        "log_odds": np.round(log_odds(system.probabilities), 4).tolist(),
        **{key: getattr(system, key) for key in ("train_loss", "curves", "seconds", "identity", "about")},
    }


def _system(row: Mapping[str, Any]) -> System:
    fields = {key: value for key, value in row.items() if key != "log_odds"}
    return System(probabilities=1 / (1 + np.exp(-np.array(row["log_odds"]))), **fields)


def _join(found: Sequence[System]) -> System:
    """One system of several: a seed after the other, losses averaged, lists of facts one after the other."""
    losses = [system.train_loss for system in found if system.train_loss is not None]
    about = dict(found[0].about)
    for key in about:
        if isinstance(about[key], list):
            about[key] = [value for system in found for value in system.about[key]]
    return System(
        np.concatenate([system.probabilities for system in found]),
        sum(losses) / len(losses) if losses else None,
        [curve for system in found for curve in system.curves],
        sum(system.seconds for system in found),
        found[0].identity,
        about,
    )


def _nothing() -> None:
    """Progress of a stage that is one of few."""
