"""Run the tasks of a suite on models: resumable task by task, portion by portion; then the table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from instructgpt import __version__
from instructgpt.errors import ConfigError
from instructgpt.evaluation.eval_settings import EvalConfig
from instructgpt.evaluation.suite.asking import answer_all
from instructgpt.evaluation.suite.metrics import estimate
from instructgpt.evaluation.suite.models import Handle, identify, named_models, open_handle
from instructgpt.evaluation.suite.problems import Problem, prepare_all
from instructgpt.evaluation.suite.results import Result, ResultFile, number, place, read_results
from instructgpt.evaluation.suite.summary import table
from instructgpt.evaluation.suite.tables import SUITES, load, task_names
from instructgpt.evaluation.suite_report import write as write_report
from instructgpt.runtime.device import pick_device, pick_dtype
from instructgpt.runtime.files import write_json
from instructgpt.runtime.metrics import Progress

PORTION = 256
"""Items whose records are written together: what a kill may lose."""


def run(config: EvalConfig) -> dict[str, Any]:
    """Evaluate; returns the summary, which is also written to `OUT/summary.json`.

    Summary: `models.NAME.{spec, tasks.TASK.METRIC.{value, low, high, n, better, unit}}` over all that lies in
    OUT, `report` (an HTML page), `table`, `seconds` of this command.

    Raises:
        ConfigError, DataError, CheckpointError, ServiceError: a flag, a file or a model can't be used.
    """
    start = time.monotonic()
    alone = SUITES.get(config.suite.strip())
    if isinstance(alone, str):
        summary: dict[str, Any] = load(alone)(config)
        return summary
    models = named_models(config.specs)
    chatting = _chatting(config, models)
    problems = prepare_all(task_names(config.suite), config)
    identities = {name: identify(spec) for name, spec in models.items()}
    out = Path(config.out)
    write_json(out / "config.json", {"verb": "eval", "version": __version__, "config": asdict(config)})
    for order, (name, spec) in enumerate(models.items()):
        _evaluate(config, problems, order, name, spec, identities[name], name in chatting)
    report = write_report(out, seed=config.seed)["report"]
    seconds = round(time.monotonic() - start, 2)
    summary = summarise(out, config.suite) | {"report": report, "seconds": seconds}
    write_json(out / "summary.json", summary)
    return summary


def _chatting(config: EvalConfig, models: Mapping[str, str]) -> set[str]:
    """Names of the models that are asked through their chat template."""
    names = {name.strip() for name in config.chat.split(",") if name.strip()}
    if names == {"all"}:
        return set(models)
    if unknown := names - set(models):
        cure = f"the models are {', '.join(models)}"
        raise ConfigError(f"there is no model {', '.join(sorted(unknown))}", "--chat", cure)
    return names


def _evaluate(
    config: EvalConfig,
    problems: Sequence[Problem],
    order: int,
    name: str,
    spec: str,
    identity: Mapping[str, str],
    chat: bool,
) -> None:
    """All tasks of one model; it is opened only when a task is left to do."""
    handle: Handle | None = None
    try:
        for problem in problems:
            depends = problem.identity | {"model": dict(identity), "chat": chat}
            depends |= {"dtype": config.dtype, "bos": config.bos}
            file = ResultFile(place(config.out, name, problem.task.name), depends, PORTION)
            if file.finished is not None:
                continue
            if handle is None:
                device = pick_device(config.device)
                handle = open_handle(
                    spec,
                    name=name,
                    device=device,
                    dtype=pick_dtype(config.dtype),
                    chat=chat,
                    bos=config.bos,
                    identity=dict(identity),
                )
            seconds = _work(problem, handle, file, config.seed)
            model = {"name": name, "spec": spec, "identity": dict(identity)}
            about = {"place": order, "model": model, "chat": chat, "cut_prompts": handle.cut}
            about |= {"dtype": config.dtype, "device": config.device, "command": command(config)}
            finish(problem, file, about | {"seconds": round(seconds, 2)}, config.seed)
            handle.cut = 0
    finally:
        if handle is not None:
            handle.close()


def _work(problem: Problem, handle: Handle, file: ResultFile, seed: int) -> float:
    """Ask and score the items that have no record yet; returns the seconds it took."""
    start = time.monotonic()
    done = file.begin()
    items = problem.items
    progress = Progress(f"{handle.name}: {problem.task.name}", len(items), done)
    for begin in range(done, len(items), PORTION):
        part = items[begin : begin + PORTION]
        asks = [problem.task.ask(item, problem.shots_for(item)) for item in part]
        answers = answer_all(handle, problem.task.name, part, asks, seed, _counter(progress, asks))
        scored = problem.task.score(part, answers)
        file.append(
            {"id": item.id, "group": item.group, "scores": dict(found.scores), "shown": dict(found.shown)}
            for item, found in zip(part, scores_checked(problem, part, scored), strict=True)
        )
    progress.close()
    return time.monotonic() - start


def scores_checked(problem: Problem, items: Sequence[Any], scored: list[Any]) -> list[Any]:
    """The scores, one an item; anything else is a fault of the task."""
    assert len(scored) == len(items), f"{problem.task.name} scored {len(scored)} of {len(items)} items"
    return scored


def _counter(progress: Progress, asks: Sequence[Sequence[Any]]) -> Callable[[int], None]:
    """Turns numbers of answers into steps of the progress line, which counts items."""
    total, items, seen, shown = sum(_answers(ask) for row in asks for ask in row), len(asks), 0, 0

    def advance(count: int) -> None:
        nonlocal seen, shown
        seen += count
        reached = items * seen // max(1, total)
        progress.advance(reached - shown)
        shown = reached

    return advance


def _answers(ask: Any) -> int:
    return len(getattr(ask, "continuations", (0,)))


def finish(problem: Problem, file: ResultFile, about: Mapping[str, Any], seed: int) -> Result:
    """Combine the records of all items into the task's numbers and write them."""
    records = file.records()
    metrics = {}
    for metric in problem.task.metrics:
        found = estimate(metric, records, seed)
        row = {"value": number(found.mean), "low": number(found.low), "high": number(found.high)}
        metrics[metric.name] = row | {"n": found.n, "better": metric.better, "unit": metric.unit}
    headline = problem.task.metrics[0].name
    return file.finish(
        {**problem.about, **about, "package": __version__, "headline": headline, "metrics": metrics}
    )


def summarise(out: Path, suite: str) -> dict[str, Any]:
    """The summary of all results in `out`."""
    results = read_results(out)
    models: dict[str, dict[str, Any]] = {}
    for result in results:
        entry = models.setdefault(result.model, {"spec": result.about["model"]["spec"], "tasks": {}})
        entry["tasks"][result.task] = result.about["metrics"]
    return {"verb": "eval", "out": str(out), "suite": suite, "models": models, "table": table(results)}


def command(config: EvalConfig) -> str:
    """The command line that says what the configuration says."""
    words = ["instructgpt", "eval", *config.checkpoints]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "checkpoints" or value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        for part in value if isinstance(value, tuple) else (value,):
            words += [flag, str(part)]
    return shlex.join(words)
