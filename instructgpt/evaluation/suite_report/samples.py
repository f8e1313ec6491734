"""What models were shown and said, item by item, for the report's browser."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.evaluation.suite_report.side_by_side import Row
from instructgpt.runtime.seeds import derive_seed

EACH = 100
"""Items of a task that the report holds; drawn at random, so that they stand for the rest."""
_LONGEST = 3000  # characters of one text


def samples(rows: Sequence[Row], seed: int = 0, each: int = EACH) -> list[dict[str, Any]]:
    """Some items of every task, with what each model made of them.

    Returns:
        for each item `task` (index of the row), `id`, `shown` (what all models share: prompt, references),
        `replies` [{model, shown, score}] and `differ`: whether the models chose, or else scored, differently.
    """
    found = []
    for number, row in enumerate(rows):
        by_model = {
            model: {str(record["id"]): record for record in result.records}
            for model, result in row.results.items()
        }
        ids = list(next(iter(by_model.values())))
        drawn = set(random.Random(derive_seed(seed, "report", row.task)).sample(ids, min(each, len(ids))))
        for item in [item for item in ids if item in drawn]:
            records = {model: known[item] for model, known in by_model.items() if item in known}
            found.append(_item(number, item, records, row.metric))
    return found


def _item(number: int, item: str, records: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    shown = {model: {k: _text(v) for k, v in record["shown"].items()} for model, record in records.items()}
    first = next(iter(shown.values()))
    same = {
        key: value
        for key, value in first.items()
        if key not in ("reply", "chosen") and all(other.get(key) == value for other in shown.values())
    }
    replies = [
        {
            "model": model,
            "shown": {key: value for key, value in shown[model].items() if key not in same},
            "score": _score(record["scores"], metric),
        }
        for model, record in records.items()
    ]
    chosen = [values.get("chosen") for values in shown.values()]
    judged = [reply["score"] for reply in replies] if None in chosen else chosen
    differ = len({json.dumps(value, sort_keys=True) for value in judged}) > 1
    return {"task": number, "id": item, "shown": same, "replies": replies, "differ": differ}


def _text(value: Any) -> Any:
    """Texts cut to a length, other values as they are; lists item by item."""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else value[:_LONGEST] + " […]"
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _score(scores: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The item's own headline, where it has one, else all its numbers (at most six)."""
    numbers = {k: round(float(v), 4) for k, v in scores.items() if v is not None and math.isfinite(v)}
    if metric in numbers:
        return {metric: numbers[metric]}
    return dict(list(numbers.items())[:6])
