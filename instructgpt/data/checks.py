"""What a prompt's record says of its right answer: `answer`, and `checks` that a reply must pass.

    {"prompt": "What is 3 + 4?", "answer": "7"}
    {"prompt": "Name a river.", "answer": ["Nile", "The Nile"]}
    {"prompt": "List three rivers.", "checks": ["lowercase", {"check": "bullets", "exactly": 3}]}

Only the shape is read here; what the checks mean is in `instructgpt.scoring.checks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instructgpt.data.jsonl import json_type
from instructgpt.errors import DataError

Value = str | int | tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """A named check with its arguments, as (name, value) pairs in their order."""

    name: str
    arguments: tuple[tuple[str, Value], ...] = ()


def parse_answers(value: Any) -> tuple[str, ...]:
    """The right answers of a record's `answer`: a string, a number, or a list of them; none if it is null.

    Raises:
        DataError: it is something else, or an empty string.
    """
    if value is None:
        return ()
    found = value if isinstance(value, list) else [value]
    for one in found:
        if isinstance(one, bool) or not isinstance(one, str | int | float) or not str(one).strip():
            what = "an empty string" if isinstance(one, str) else json_type(one)
            raise DataError(
                f"'answer' holds {what}, not a string or a number",
                cure='write "answer": "7", or a list of answers that are all right',
            )
    return tuple(str(one) for one in found)


def parse_checks(value: Any) -> tuple[Check, ...]:
    """The checks of a record's `checks`: a list of names and of objects with `check` and arguments.

    Raises:
        DataError: it has another shape. Unknown names are found by the reward that uses them.
    """
    cure = 'write "checks": ["json", {"check": "words", "at_most": 50}]'
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError(f"'checks' is {json_type(value)}, not a list", cure=cure)
    checks = []
    for number, one in enumerate(value, start=1):
        row: Mapping[str, Any] = {"check": one} if isinstance(one, str) else one
        if not isinstance(row, dict) or not isinstance(row.get("check"), str) or not row["check"]:
            raise DataError(f"check {number} of 'checks' has no name", cure=cure)
        pairs = [(key, _value(row[key], key, number, cure)) for key in row if key != "check"]
        checks.append(Check(row["check"], tuple(pairs)))
    return tuple(checks)


def _value(value: Any, name: str, number: int, cure: str) -> Value:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    what = (
        f"{name!r} of check {number} is {json_type(value)}, not a string, a whole number or a list of strings"
    )
    raise DataError(what, cure=cure)


def check_rows(checks: Sequence[Check]) -> list[str | dict[str, Any]]:
    """The JSON form of checks; `parse_checks` gives them back."""
    return [
        {
            "check": check.name,
            **{key: list(value) if isinstance(value, tuple) else value for key, value in check.arguments},
        }
        if check.arguments
        else check.name
        for check in checks
    ]
