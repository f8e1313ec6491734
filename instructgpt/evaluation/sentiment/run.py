"""Suite `sentiment`: language models tuned on reviews, beside baselines trained on the same reviews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.evaluation.drawing import standalone
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.sentiment import parts, systems
from instructgpt.evaluation.sentiment.figure import loss_curves
from instructgpt.evaluation.sentiment.measures import METRICS, scores
from instructgpt.evaluation.sentiment.results import TASK, write_results
from instructgpt.evaluation.sentiment.reviews import Review, found_reviews
from instructgpt.evaluation.sentiment.settings import BASELINES, SentimentConfig
from instructgpt.evaluation.sentiment.systems import System
from instructgpt.evaluation.sentiment.table import table
from instructgpt.evaluation.suite.metrics import difference, estimate
from instructgpt.evaluation.suite.reading import find, find_shots
from instructgpt.evaluation.suite.run import command
from instructgpt.evaluation.suite.task import Options
from instructgpt.evaluation.suite_report.document import Figure
from instructgpt.evaluation.suite_report.write import write
from instructgpt.evaluation.tasks.imdb import make
from instructgpt.runtime.files import write_json, write_text
from instructgpt.runtime.metrics import Progress

DRAWS = 2000
"""Resamples of the reviews behind every interval."""
CURVES = "loss.svg"
_BY_FILM = ("accuracy", "f1")
MEASURES = tuple(metric.name for metric in METRICS)
Records = Sequence[Mapping[str, Any]]


def run(config: EvalConfig) -> dict[str, Any]:
    """`instructgpt eval ... --suite sentiment`: see `measure`.

    Models named twice are seeds of one; `--data` holds the training and the test reviews; `--option` takes
    `seeds`, `curve`, `tokens` and `valid_share`.
    """
    task = make(Options())
    values: dict[str, Any] = {
        "models": tuple(config.specs),
        "train": found_reviews(find_shots(config.data, task)),
        "test": found_reviews(find(config.data, task)),
        **{key: getattr(config, key) for key in ("seed", "out", "device", "dtype")},
    }
    for option in config.option:
        key, _, text = option.removeprefix("sentiment.").partition("=")
        kind = {"seeds": int, "curve": int, "tokens": int, "valid_share": float}.get(key)
        try:
            values[key] = kind(text)  # type: ignore[misc]
        except (TypeError, ValueError) as error:
            cure = "--suite sentiment takes seeds=, curve=, tokens= and valid_share= with a number"
            raise ConfigError(f"{option!r} is no option", "--option", cure) from error
    return measure(SentimentConfig(**values), command(config))


def measure(config: SentimentConfig, said: str = "") -> dict[str, Any]:
    """Measure all models and baselines, write the report; returns the summary, also `summary.json`.

    Summary: `systems.NAME.{accuracy, precision, recall, f1, loss}.{mean, low, high, n}` with 95 % bootstrap
    intervals over reviews, seeds averaged; `systems.NAME.{seeds, train_loss, seconds}`;
    `difference.MODEL_over_OTHER` likewise, paired; `difference_by_film` with films drawn again instead of
    reviews; `above_both`: whether the first model's accuracy is above both baselines', beyond the intervals;
    `curves`; `report`; `table`. Finished parts are not computed again.

    Args:
        said: the command that asked for it, for the report.

    Raises:
        ConfigError, DataError, CheckpointError: a flag, a review or a model can't be used.
        RunChanged: the folder holds parts of other data, settings or models.
    """
    if not config.out:
        raise ConfigError("no run folder was named", "--out", "give one, for example --out runs/imdb-eval")
    out, models = Path(config.out), config.checkpoints
    data, store = systems.read_data(config), parts.Store(out / "sentiment")
    progress = Progress("sentiment", 1 + config.seeds + sum(map(len, models.values())))
    found = {
        name: systems.language(config, data, store, name, folders, progress.advance)
        for name, folders in models.items()
    }
    found["logistic"] = systems.logistic(data, store, progress.advance)
    found["lstm"] = systems.lstm(config, data, store, progress.advance)
    progress.close()
    summary = summarise(config, data, found)
    figure = loss_curves(summary)
    write_text(out / CURVES, standalone(figure))
    write_results(config, data, found, summary["systems"], said)
    report = write(
        out,
        title="Sentiment of film reviews",
        models=list(found),
        metrics={TASK: METRICS},
        figures=[Figure("Training and test loss", figure, _note(config))],
        notes=[f"{name}: {what}." for name, what in BASELINES.items()],
        seed=config.seed,
    )
    summary["report"] = report["report"]
    write_json(out / "summary.json", summary)
    return summary


def summarise(config: SentimentConfig, data: systems.Data, found: Mapping[str, System]) -> dict[str, Any]:
    """What `measure` returns, but for the report: measures, differences to the first system, verdict, curves.

    Args:
        found: all systems with their answers to the test reviews of `data`; the verdict is about the first.
    """
    records = {name: _records(data.test.reviews, system) for name, system in found.items()}
    first = next(iter(found))
    others = [name for name in found if name != first]
    summary: dict[str, Any] = {
        "verb": "eval",
        "suite": "sentiment",
        "out": config.out,
        "reviews": {name: len(getattr(data, name).reviews) for name in ("train", "valid", "test")},
        "data": data.of("train", "test"),
        "systems": {name: _row(system, records[name], config.seed) for name, system in found.items()},
        "difference": {
            f"{first}_over_{other}": _differences(records[first], records[other], config.seed)
            for other in others
        },
        "difference_by_film": {
            f"{first}_over_{other}": _differences(
                _by_film(records[first]), _by_film(records[other]), config.seed, _BY_FILM
            )
            for other in others
        },
        "curves": {name: system.curves for name, system in found.items() if system.curves},
        "seconds": round(sum(system.seconds for system in found.values()), 2),
    }
    summary["above_both"] = all(
        summary["difference"][f"{first}_over_{name}"]["accuracy"]["low"] > 0 for name in BASELINES
    )
    return summary | {"table": table(summary)}


def _note(config: SentimentConfig) -> str:
    models = (
        f" Language models: on {config.curve} training and as many test reviews at each kept checkpoint;"
        if config.curve
        else ""
    )
    return (
        f"Thin lines are seeds.{models} LSTM: on all reviews, after each epoch. No test loss chose anything."
    )


def _records(test: Sequence[Review], system: System) -> list[dict[str, Any]]:
    """One a test review, as a suite's results have them."""
    return [
        {"id": review.id, "group": "", "film": review.movie, "scores": scores(review.label, p)}
        for review, p in zip(test, system.probabilities.T, strict=True)
    ]


def _by_film(records: Records) -> list[dict[str, Any]]:
    return [{**record, "group": record["film"]} for record in records]


def _row(system: System, records: Records, seed: int) -> dict[str, Any]:
    found = {metric.name: estimate(metric, records, seed, DRAWS).row() for metric in METRICS}
    more = {"train_loss": system.train_loss, "seconds": round(system.seconds, 2), **system.about}
    return {**found, "seeds": len(system.probabilities), **more}


def _differences(
    ours: Records, theirs: Records, seed: int, names: Sequence[str] = MEASURES
) -> dict[str, Any]:
    return {
        metric.name: difference(metric, ours, theirs, seed, DRAWS).row()
        for metric in METRICS
        if metric.name in names
    }
