"""The table of an evaluation: a line a task, a column a model, the headline number with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

from instructgpt.evaluation.statistics import Estimate
from instructgpt.evaluation.suite.results import Result


def table(results: Sequence[Result]) -> str:
    """Results side by side as text for a terminal."""
    models = list(dict.fromkeys(result.model for result in results))
    found = {(result.task, result.model): result for result in results}
    rows = [["task", "number", *models]]
    for task in dict.fromkeys(result.task for result in results):
        first = next(result for result in results if result.task == task)
        cells = [found.get((task, model)) for model in models]
        label = f"{first.about['headline']} ({first.about['metrics'][first.about['headline']]['unit']})"
        rows.append([task, label, *(_cell(cell) for cell in cells)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _cell(result: Result | None) -> str:
    return "-" if result is None else show(result.metrics[result.about["headline"]])


def show(estimate: Estimate) -> str:
    """A number with its interval where there is one."""
    if math.isnan(estimate.mean):
        return "-"
    if math.isnan(estimate.low):
        return f"{estimate.mean:.3f}"
    return str(estimate)
