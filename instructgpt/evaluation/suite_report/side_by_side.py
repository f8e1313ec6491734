"""Models side by side on every task, zero- and few-shot: what each gained and lost against the others.

What alignment costs elsewhere (arXiv:2203.02155, section 4.2 and Figures 28 and 29) is read off here: base,
SFT, PPO and PPO-ptx on the same items, every pair of them with a paired interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.statistics import Estimate
from instructgpt.evaluation.suite.metrics import difference
from instructgpt.evaluation.suite.results import Result
from instructgpt.evaluation.suite.tables import TASKS, make_task
from instructgpt.evaluation.suite.task import Metric, Options

_ALIKE = ("version", "seed", "limit", "options")
"""What two results must share, beside their data, before they are compared item by item."""


@dataclass(frozen=True)
class Pair:
    """One model minus another on a task's headline.

    Attributes:
        ours, theirs: the models.
        estimate: the difference with its paired interval over items (or groups of them).
        verdict: "better" or "worse" where the whole interval lies on that side of 0; else empty, and for a
            metric that is neither good nor bad.
    """

    ours: str
    theirs: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class Row:
    """A task at one number of shots.

    Attributes:
        label: the task's name, with its number of shots where the task was run with several.
        results: model -> its result.
        metric: the headline's name.
        pairs: (ours, theirs) -> difference; empty where items could not be paired.
        unpaired: why not; empty where they were.
    """

    task: str
    shots: int
    label: str
    results: Mapping[str, Result]
    metric: str
    pairs: Mapping[tuple[str, str], Pair]
    unpaired: str = ""

    def about(self, key: str) -> Any:
        """A fact that the results of all models share: `source`, `items`, `data`, ..."""
        return next(iter(self.results.values())).about.get(key)

    def figure(self, model: str, metric: str = "") -> Mapping[str, Any] | None:
        """`value, low, high, n, better, unit` of a model; None where it was not run."""
        result = self.results.get(model)
        return None if result is None else figures(result).get(metric or self.metric)


def figures(result: Result) -> dict[str, Mapping[str, Any]]:
    """The result's numbers as its file has them: name -> `value, low, high, n, better, unit`."""
    return dict(result.about["metrics"])


def side_by_side(
    results: Sequence[Result],
    models: Sequence[str] = (),
    metrics: Mapping[str, Sequence[Metric]] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Every task that was run, in order, with the difference between any two models.

    Args:
        results: of one folder, or of several (zero- and few-shot).
        models: their order, the one that others are held against first; empty = as they come.
        metrics: of tasks that `suite.tables` does not list.
        seed: draws the resamples.

    Raises:
        ConfigError: a model is named that has no result, or two results claim the same place.
    """
    order = list(models) or list(dict.fromkeys(result.model for result in results))
    known = {result.model for result in results}
    if missing := [name for name in order if name not in known]:
        cure = f"there are results of {', '.join(sorted(known))}"
        raise ConfigError(f"there is no result of {', '.join(missing)}", "--models", cure)
    places: dict[tuple[str, int], dict[str, Result]] = {}
    for result in results:
        place = places.setdefault((result.task, int(result.about.get("shots") or 0)), {})
        if result.model in place:
            what = f"{result.model} has two results of {result.task} with the same number of shots"
            raise ConfigError(what, str(result.path), "leave one of the folders out")
        place[result.model] = result
    several = {task for task, _ in places if sum(task == other for other, _ in places) > 1}
    return [
        _row(task, shots, {m: found[m] for m in order if m in found}, task in several, metrics or {}, seed)
        for (task, shots), found in places.items()
        if any(model in found for model in order)
    ]


def _row(
    task: str,
    shots: int,
    found: Mapping[str, Result],
    several: bool,
    metrics: Mapping[str, Sequence[Metric]],
    seed: int,
) -> Row:
    first = next(iter(found.values()))
    label = f"{task}, {shots} shot{'' if shots == 1 else 's'}" if several or shots else task
    headline = str(first.about.get("headline") or next(iter(figures(first))))
    try:
        metric = _metric(task, headline, first, metrics)
        pairs = {
            (ours, theirs): _pair(metric, found[ours], found[theirs], seed)
            for theirs, ours in combinations(found, 2)
        }
    except (ConfigError, DataError) as error:
        return Row(task, shots, label, found, headline, {}, error.what)
    return Row(task, shots, label, found, headline, pairs)


def _metric(task: str, name: str, result: Result, metrics: Mapping[str, Sequence[Metric]]) -> Metric:
    known = metrics.get(task)
    if known is None and task in TASKS:
        about = result.about
        values = {str(key): str(value) for key, value in (about.get("options") or {}).items()}
        options = Options(
            int(about.get("seed") or 0), about.get("shots"), int(about.get("limit") or 0), values
        )
        known = make_task(task, options).metrics
    if (found := next((metric for metric in known or () if metric.name == name), None)) is None:
        raise ConfigError(f"how {name} of {task} is computed is not known here")
    return found


def _pair(metric: Metric, ours: Result, theirs: Result, seed: int) -> Pair:
    changed = [key for key in _ALIKE if ours.about.get(key) != theirs.about.get(key)]
    if _data(ours) != _data(theirs):
        changed.append("data")
    if changed:
        raise DataError(f"{ours.model} and {theirs.model} were run with different {' and '.join(changed)}")
    found = difference(metric, ours.records, theirs.records, seed)
    return Pair(ours.model, theirs.model, found, _verdict(found, metric.better))


def _data(result: Result) -> Any:
    return (result.about.get("data") or {}).get("sha256")


def _verdict(found: Estimate, better: str) -> str:
    """NaN ends compare as false: without an interval there is no verdict."""
    if not better or not (found.low > 0 or found.high < 0):
        return ""
    return "better" if (found.low > 0) == (better == "higher") else "worse"


def tally(rows: Sequence[Row], ours: str, theirs: str) -> dict[str, int]:
    """On how many tasks `ours` is `better`, `worse`, or `neither` than `theirs`."""
    found = [row.pairs[ours, theirs].verdict for row in rows if (ours, theirs) in row.pairs]
    return {
        "better": found.count("better"),
        "worse": found.count("worse"),
        "neither": found.count(""),
    }


def tax_table(rows: Sequence[Row]) -> str:
    """Headlines of all models, and of every model after the first its difference to it, as plain text."""
    models = list(dict.fromkeys(model for row in rows for model in row.results))
    width = max([len(f"{row.label} {row.metric}") for row in rows] + [4]) + 2
    lines = [f"{'task':<{width}}" + "".join(f"{model[:22]:>24}" for model in models)]
    for row in rows:
        cells = []
        for model in models:
            figure, pair = row.figure(model), row.pairs.get((model, models[0]))
            known = figure is not None and figure["value"] is not None
            value = f"{figure['value']:.4g}" if figure and known else "-"
            sign = {"better": "+", "worse": "-"}.get(pair.verdict, "=") if pair else ""
            cells.append(f"{value} ({pair.estimate.mean:+.3g}) {sign}" if pair else f"{value}  ")
        lines.append(f"{row.label + ' ' + row.metric:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
    if len(models) > 1:
        lines.append(f"In brackets: difference to {models[0]}; + better, - worse, = its interval holds 0.")
    return "\n".join(lines)
