"""Write the report of an evaluation from its result files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructgpt.errors import ConfigError
from instructgpt.evaluation.suite.results import read_results
from instructgpt.evaluation.suite.task import Metric
from instructgpt.evaluation.suite_report.card import card
from instructgpt.evaluation.suite_report.document import Figure, Report, as_json
from instructgpt.evaluation.suite_report.page import render
from instructgpt.evaluation.suite_report.samples import EACH, samples
from instructgpt.evaluation.suite_report.side_by_side import side_by_side, tax_table
from instructgpt.runtime.files import write_json, write_text

HTML, JSON = "report.html", "report.json"


def write(
    out: Path,
    folders: Sequence[Path] = (),
    *,
    title: str = "Evaluation",
    models: Sequence[str] = (),
    metrics: Mapping[str, Sequence[Metric]] | None = None,
    figures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    each: int = EACH,
    seed: int = 0,
) -> dict[str, Any]:
    """Write `report.html`, `report.json` and `card-MODEL.md` into `out`.

    Args:
        folders: result folders that the report is about, zero- and few-shot for example; empty = `out`.
        models: their order, the one that others are held against first; empty = as they come.
        metrics: of tasks that `suite.tables` does not list.
        figures, notes: shown beside the tables.
        each: items of a task in the browser of samples.
        seed: draws those items and the resamples.

    Returns:
        `report` (path of the page), `json`, `cards` (model -> path), `table` (plain text).

    Raises:
        ConfigError: there is no result, or a model is named that has none.
    """
    results = [result for folder in folders or (out,) for result in read_results(Path(folder))]
    if not results:
        places = ", ".join(map(str, folders or (out,)))
        raise ConfigError(
            "there are no results to report",
            places,
            "name the --out of an evaluation with --suite that has finished a task",
        )
    rows = side_by_side(results, models, metrics, seed)
    order = list(models) or list(dict.fromkeys(result.model for result in results))
    report = Report(title, rows, order, figures, notes)
    found = as_json(report)
    write_text(out / HTML, render(report, samples(rows, seed, each)))
    write_json(out / JSON, found)
    cards = {model: out / f"card-{_safe(model)}.md" for model in order}
    for model, path in cards.items():
        write_text(path, card(found, model))
    return {
        "report": str(out / HTML),
        "json": str(out / JSON),
        "cards": {model: str(path) for model, path in cards.items()},
        "table": tax_table(rows),
    }


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
