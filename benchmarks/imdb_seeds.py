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

from instructgpt.errors import DataError
from instructgpt.evaluation.sentiment import parts, systems
from instructgpt.evaluation.sentiment.measures import Array
from instructgpt.evaluation.sentiment.settings import SentimentConfig
from instructgpt.evaluation.sentiment.systems import Data, System
from instructgpt.pipeline import RunConfig, run
from instructgpt.runtime.files import write_text

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


def tuning(seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """How a seed is tuned: the settings of its stage, which all seeds share, and what was changed of them."""
    (stage,) = (stage for stage in plan()["stage"] if stage.get("name") == f"sft_{seed}")
    mine = sorted(change.partition(".")[2] for change in changes if change.startswith(f"sft_{seed}."))
    return {key: value for key, value in stage.items() if key not in ("name", "seed")} | {"changes": mine}


def keep(path: Path, data: Data, found: Mapping[str, System], tuned: Mapping[str, Any] | None = None) -> None:
    """Write answers to a file, a system a line, with the date, the machine, and how the model was tuned."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    rows = {
        "date": date.today().isoformat(),
        "machine": f"{machine}, torch {torch.__version__}, scikit-learn {sklearn.__version__}",
        "data": data.identity,
        **({"tuning": dict(tuned)} if tuned else {}),
        **{name: _row(system) for name, system in found.items()},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rows.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def kept(path: Path, data: Data) -> Kept:
    """What `keep` wrote.

    Raises:
        DataError: the file is damaged, or about other reviews or other views of them.
    """
    try:
        found: Kept = json.loads(path.read_text(encoding="utf-8"))
        about = found["data"]
    except (ValueError, KeyError, TypeError) as error:
        cure = "get it back from git, or remove it to run that part again"
        raise DataError("these kept answers can't be read", str(path), cure) from error
    if about != data.identity:
        cure = "name the reviews that they are about, or remove the file to run that part again"
        raise DataError("these answers are about other reviews, or other views of them", str(path), cure)
    return found


def joined(kept: Mapping[str, Kept]) -> dict[str, System]:
    """All systems with the seeds of all files, in the page's order.

    Args:
        kept: name of the file -> what is in it.

    Raises:
        DataError: no model was tuned yet, a baseline is missing, or seeds were tuned in different ways.
    """
    ways = {name: file["tuning"] for name, file in kept.items() if "tuning" in file}
    first = next(iter(ways), "")
    for name, way in ways.items():
        if way != ways[first]:
            cure = "remove one of the files, and run that seed again"
            raise DataError(f"{name} was tuned with other settings than {first}", "docs/results/imdb", cure)
    found = {name: [_system(file[name]) for file in kept.values() if name in file] for name in ORDER}
    if missing := [name for name in ORDER if not found[name]]:
        cure = "run the same command without --page"
        raise DataError(f"there are no answers of {', '.join(missing)} yet", "docs/results/imdb", cure)
    return {name: _join(systems) for name, systems in found.items()}


def log_odds(probabilities: Array) -> Array:
    """log p / (1 - p): four decimals of it keep a small loss exact, which those of p do not."""
    with np.errstate(divide="ignore"):
        found = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip(found, -_FURTHEST, _FURTHEST)


def _row(system: System) -> Kept:
    return {
        "log_odds": np.round(log_odds(system.probabilities), 4).tolist(),
        **{key: getattr(system, key) for key in ("train_loss", "curves", "seconds", "identity")},
        # Where a checkpoint lay says nothing on another machine.
        "about": {key: value for key, value in system.about.items() if key != "models"},
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
