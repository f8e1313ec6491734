"""The report as data: what the page, the JSON and the model card are all written from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instructgpt import __version__
from instructgpt.evaluation.statistics import Estimate
from instructgpt.evaluation.suite.results import Result
from instructgpt.evaluation.suite_report.side_by_side import Row, figures, tally


@dataclass(frozen=True)
class Figure:
    """A plot for the page: inline SVG (see `evaluation.drawing`) below a title."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything a report says.

    Attributes:
        title: its heading.
        rows: tasks, in order.
        models: in order; the first is the one that the others are held against.
        figures: plots beside those of the tasks.
        notes: sentences below the results.
    """

    title: str
    rows: Sequence[Row]
    models: Sequence[str]
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        """The first model."""
        return self.models[0]

    @property
    def seconds(self) -> float:
        """Time that all results took."""
        return sum(float(result.about.get("seconds") or 0.0) for result in self.results)

    @property
    def results(self) -> list[Result]:
        """All results, task by task."""
        return [result for row in self.rows for result in row.results.values()]


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines: numbers that don't exist are null.

    `models.NAME.{spec, identity}`, `tasks` [{task, shots, items, metric, source, data, results.MODEL.METRIC,
    made.MODEL, differences}], `tally.MODEL_over_MODEL.{better, worse, neither}`.
    """
    return {
        "title": report.title,
        "package": f"instructgpt {__version__}",
        "baseline": report.baseline,
        "seconds": round(report.seconds, 2),
        "models": {name: _model(report, name) for name in report.models},
        "tasks": [_task(row) for row in report.rows],
        "tally": {
            f"{ours}_over_{theirs}": tally(report.rows, ours, theirs)
            for ours, theirs in dict.fromkeys(pair for row in report.rows for pair in row.pairs)
        },
        "notes": list(report.notes),
    }


def _model(report: Report, name: str) -> dict[str, Any]:
    about = next(result.about for result in report.results if result.model == name)
    model = about.get("model") or {}
    return {"spec": model.get("spec", ""), "identity": model.get("identity", {}), "chat": about.get("chat")}


def _task(row: Row) -> dict[str, Any]:
    return {
        "task": row.task,
        "shots": row.shots,
        "items": row.about("items"),
        "metric": row.metric,
        "source": row.about("source"),
        "data": row.about("data"),
        "results": {
            model: {name: numbers(figure) for name, figure in figures(result).items()}
            for model, result in row.results.items()
        },
        "made": {model: made(result) for model, result in row.results.items()},
        "differences": {
            f"{ours}_over_{theirs}": {**estimate(pair.estimate), "verdict": pair.verdict}
            for (ours, theirs), pair in row.pairs.items()
        },
        **({"unpaired": row.unpaired} if row.unpaired else {}),
    }


def made(result: Result) -> dict[str, Any]:
    """What it takes to make a number again: command, data, seed, duration and the like."""
    about, data = result.about, result.about.get("data") or {}
    keys = ("command", "seed", "seconds", "tokens", "items", "limit", "options", "version")
    more = ("device", "dtype", "package")
    return {
        **{key: about.get(key) for key in keys},
        "data": data.get("files"),
        "sha256": data.get("sha256"),
        **{key: about.get(key) for key in more},
    }


def numbers(figure: Mapping[str, Any]) -> dict[str, Any]:
    """A figure with its NaN as None, which JSON has."""
    return {key: finite(value) for key, value in figure.items()}


def estimate(found: Estimate) -> dict[str, Any]:
    """An estimate as JSON has it: `value, low, high, n`."""
    return numbers({"value": found.mean, "low": found.low, "high": found.high, "n": found.n})


def finite(value: Any) -> Any:
    """None instead of a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
