"""Answers that are numbers, as GSM8K marks them (arXiv:2110.14168)."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from instructgpt.scoring.verify import last_number

_MARKED = re.compile(r"#### (-?[0-9.,]+)")


def marked_number(text: str) -> str | None:
    """What stands behind the first `#### `, commas left out, as in the official script; None if nothing."""
    found = _MARKED.search(text)
    return found[1].strip().replace(",", "") if found else None


def strict(reply: str, solution: str) -> float:
    """1 if the reply marks its answer with `####` and the text behind is the solution's; else 0."""
    ours = marked_number(reply)
    return float(ours is not None and ours == marked_number(solution))


def flexible(reply: str, solution: str) -> float:
    """1 if the last number of the reply is the solution's; else 0."""
    ours, theirs = last_number(reply), marked_number(solution)
    try:
        return float(ours is not None and theirs is not None and ours == Decimal(theirs.rstrip(".")))
    except InvalidOperation:
        return 0.0


def solves(solution: str) -> bool:
    """Whether a solution marks its answer, as every record of the data set does."""
    return marked_number(solution) is not None
