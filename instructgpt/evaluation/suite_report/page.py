"""The report as one HTML page: tables, interval plots, how each number was made, and a browser of samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.evaluation import page
from instructgpt.evaluation.drawing import label
from instructgpt.evaluation.suite.results import Result
from instructgpt.evaluation.suite_report.document import Report, estimate, made
from instructgpt.evaluation.suite_report.side_by_side import Pair, Row, figures, tally
from instructgpt.evaluation.suite_report.style import SCRIPT, STYLE
from instructgpt.evaluation.suite_report.template import PAGE
from instructgpt.evaluation.suite_report.tracks import axis, interval, number, track

_COLOURS = {"better": "var(--good)", "worse": "var(--bad)", "": "var(--soft)"}
_ARROWS = {"higher": "higher is better", "lower": "lower is better", "": "neither is better"}


def render(report: Report, items: Sequence[Mapping[str, Any]]) -> str:
    """The whole page; all texts are escaped, and the page may load nothing (its content policy says so).

    Args:
        items: what `samples.samples` chose.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    data = {
        "tasks": [row.label for row in report.rows],
        "models": {model: label(model) for model in report.models},
        "items": list(items),
    }
    return environment.from_string(PAGE).render(
        title=report.title,
        style=page.STYLE + STYLE,
        script=SCRIPT,
        # "</script>" inside a text would end the element
        data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        lead=_lead(report),
        notes=report.notes,
        cards=_cards(report),
        overview=_overview(report),
        sides=_sides(report),
        tasks=[_task(report, row, number) for number, row in enumerate(report.rows)],
        figures=report.figures,
        items=bool(items),
        made=_models(report),
    )


def _lead(report: Report) -> str:
    others = len(report.models) - 1
    text = f"{_count(len(report.rows), 'task')}, {_count(len(report.models), 'model')}."
    if others:
        text += f" {label(report.baseline)} is what the others are held against."
    brackets = "Brackets: 95 % bootstrap intervals over items, or over groups of items that belong together."
    return f"{text} {brackets}"


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _cards(report: Report) -> list[dict[str, str]]:
    items = sum(int(row.about("items") or 0) for row in report.rows)
    seconds = report.seconds
    spent = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    cards = [
        {"title": "Items", "value": f"{items:,}", "note": "each asked of every model"},
        {"title": "Time", "value": spent, "note": _count(len(report.results), "result")},
    ]
    for model in report.models[1:4]:
        found = tally(report.rows, model, report.baseline)
        if sum(found.values()):
            cards.append(
                {
                    "title": f"{label(model)} against {label(report.baseline)}",
                    "value": f"{found['better']} up, {found['worse']} down",
                    "note": f"{found['neither']} without a clear difference",
                }
            )
    return cards


def _overview(report: Report) -> dict[str, Any]:
    """A row a task: the headline of every model, below it the difference to the first."""
    rows = []
    for place, row in enumerate(report.rows):
        cells = []
        for model in report.models:
            figure, pair = row.figure(model), row.pairs.get((model, report.baseline))
            unit = str((figure or {}).get("unit", "share"))
            change = interval(estimate(pair.estimate), unit, sign=True) if pair else ""
            cells.append(
                {
                    "value": number(figure["value"], unit) if figure else "–",
                    "change": change,
                    "verdict": pair.verdict if pair else "",
                }
            )
        rows.append({"anchor": f"task-{place}", "name": row.label, "metric": _metric(row), "cells": cells})
    return {"models": [label(model) for model in report.models], "rows": rows}


def _metric(row: Row, name: str = "") -> str:
    name = name or row.metric
    figure = next(figure for m in row.results if (figure := row.figure(m, name)) is not None)
    unit = figure.get("unit", "share")
    said = "" if unit == "share" else f", {unit}"
    return f"{name.replace('_', ' ')}{said}; {_ARROWS[str(figure.get('better', ''))]}"


def _sides(report: Report) -> list[dict[str, Any]]:
    """For every pair of models: on how many tasks each is clearly better, and the differences, as a plot."""
    found = []
    pairs = dict.fromkeys(pair for row in report.rows for pair in row.pairs)
    for ours, theirs in sorted(pairs, key=lambda pair: report.models.index(pair[1])):
        rows = [row for row in report.rows if (ours, theirs) in row.pairs]
        plots = [_difference(row, row.pairs[ours, theirs]) for row in rows]
        counts = tally(rows, ours, theirs)
        found.append({"ours": label(ours), "theirs": label(theirs), "plots": plots, **counts})
    return found


def _difference(row: Row, pair: Pair) -> dict[str, Any]:
    found = estimate(pair.estimate)
    where = axis([found[key] for key in ("value", "low", "high")], around_zero=True)
    unit = str((row.figure(pair.ours) or {}).get("unit", "share"))
    name = f"{row.label}: {row.metric.replace('_', ' ')}"
    line = track(where, name, found, interval(found, unit, sign=True), pair.verdict)
    return line | {"name": name, "colour": _COLOURS[pair.verdict], "zero": where.zero}


def _task(report: Report, row: Row, place: int) -> dict[str, Any]:
    headline = {model: figures(result)[row.metric] for model, result in row.results.items()}
    where = axis([figure[key] for figure in headline.values() for key in ("value", "low", "high")])
    unit = str(next(iter(headline.values())).get("unit", "share"))
    lines = [track(where, model, figure, interval(figure, unit)) for model, figure in headline.items()]
    names = list(dict.fromkeys(name for result in row.results.values() for name in figures(result)))
    table = [
        {
            "name": _metric(row, name),
            "cells": [
                interval(figure, str(figure.get("unit", "share"))) if figure else "–"
                for figure in (row.figure(model, name) for model in row.results)
            ],
        }
        for name in names
    ]
    return {
        "anchor": f"task-{place}",
        "title": row.label,
        "metric": _metric(row),
        "count": _count(int(row.about("items") or 0), "item"),
        "source": row.about("source") or "",
        "unpaired": row.unpaired,
        "ticks": where.ticks,
        "lines": lines,
        "models": [label(model) for model in row.results],
        "table": table if len(names) > 1 else [],
        "made": [{"model": label(model), "facts": _facts(result)} for model, result in row.results.items()],
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    """What it takes to make a model's numbers again, as (what, text)."""
    found = made(result)
    files = found.pop("data") or []
    found["data"] = ", ".join(map(str, files)) if isinstance(files, list) else str(files)
    if isinstance(found.get("options"), Mapping):
        found["options"] = ", ".join(f"{key}={value}" for key, value in found["options"].items())
    if isinstance(found.get("seconds"), int | float):
        found["seconds"] = f"{found['seconds']:.1f}"
    return [(key, str(value)) for key, value in found.items() if value not in (None, "", 0) or key == "seed"]


def _models(report: Report) -> list[dict[str, Any]]:
    rows = []
    for name in report.models:
        about = next(result.about for result in report.results if result.model == name)
        model = about.get("model") or {}
        identity = model.get("identity") or {}
        told = ", ".join(f"{key} {value}" for key, value in identity.items())
        rows.append({"name": label(name), "spec": str(model.get("spec", "")), "identity": told})
    return rows
