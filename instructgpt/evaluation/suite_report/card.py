"""A Markdown card of one model, from an evaluation's report; the Hub reads the metrics at its head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instructgpt import __version__
from instructgpt.conversion.card import public
from instructgpt.evaluation.drawing import label
from instructgpt.evaluation.suite_report.tracks import interval, number


def card(report: Mapping[str, Any], model: str) -> str:
    """The card of one model.

    Args:
        report: what `document.as_json` gives.
        model: its name there.
    """
    tasks = [task for task in report["tasks"] if model in task["results"]]
    about = report["models"][model]
    spec = public(about["spec"]) or "not said"
    identity = ", ".join(f"{key} `{value}`" for key, value in (about["identity"] or {}).items())
    parts = [
        _metadata(model, tasks),
        f"# {label(model)}",
        f"Evaluated as `{spec}`{f' ({identity})' if identity else ''}.",
        _results(report, tasks, model),
        _differences(report, tasks, model),
        _made(tasks, model),
        "What is not in a table was not measured.",
        f"Written by instructgpt {__version__} from `report.json`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(model: str, tasks: list[Mapping[str, Any]]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task["task"],
            dataset_name=_name(task),
            metric_type=task["metric"],
            metric_name=task["metric"].replace("_", " "),
            metric_value=round(task["results"][model][task["metric"]]["value"], 6),
        )
        for task in tasks
        if task["results"][model][task["metric"]]["value"] is not None
    ]
    data = ModelCardData(tags=["instructgpt"], model_name=model, eval_results=found or None)
    return f"---\n{data.to_yaml()}\n---"


def _name(task: Mapping[str, Any]) -> str:
    shots = task["shots"]
    return f"{task['task']}, {shots} shot{'' if shots == 1 else 's'}" if shots else str(task["task"])


def _results(report: Mapping[str, Any], tasks: list[Mapping[str, Any]], model: str) -> str:
    lines = [
        "## Results",
        "",
        "Brackets: 95 % bootstrap intervals over items.",
        "",
        "| task | metric | value | items | unit | better |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        for name, figure in task["results"][model].items():
            unit, better = figure.get("unit", ""), figure.get("better") or "neither"
            shown = name.replace("_", " ")
            name = f"**{shown}**" if name == task["metric"] else shown
            value = interval(figure, str(unit))
            lines.append(f"| {_name(task)} | {name} | {value} | {task['items']} | {unit} | {better} |")
    return "\n".join(lines)


def _differences(report: Mapping[str, Any], tasks: list[Mapping[str, Any]], model: str) -> str:
    baseline = report["baseline"]
    rows = []
    for task in tasks:
        found = task["differences"].get(f"{model}_over_{baseline}")
        if found is not None:
            unit = str(task["results"][model][task["metric"]].get("unit", ""))
            change = interval(found, unit, sign=True)
            rows.append(f"| {_name(task)} | {task['metric']} | {change} | {found['verdict'] or '–'} |")
    if not rows:
        return ""
    head = [f"## Against {label(baseline)}", "", "On the same items, with paired intervals.", ""]
    return "\n".join([*head, "| task | metric | difference | verdict |", "|---|---|---|---|", *rows])


def _made(tasks: list[Mapping[str, Any]], model: str) -> str:
    lines = [
        "## How it was measured",
        "",
        "| task | data, SHA-256 | seed | seconds | command |",
        "|---|---|---|---|---|",
    ]
    for task in tasks:
        found = task["made"][model]
        sha = str(found["sha256"] or "")[:16]
        command = str(public(found["command"] or "")).replace("|", "\\|")
        spent = number(found["seconds"], "points") if found["seconds"] is not None else "–"
        lines.append(f"| {_name(task)} | `{sha}` | {found['seed']} | {spent} | `{command}` |")
    return "\n".join(lines)
