"""Answers as SQuAD scores them (arXiv:1606.05250 §6.1; arXiv:1806.03822 for questions without an answer)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normal(text: str) -> str:
    """Lower case, no ASCII punctuation, no English articles, single spaces."""
    bare = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def overlap_f1(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of two bags of tokens; 1 if both are empty, 0 if one is.

    precision = shared / len(prediction), recall = shared / len(answer), a token shared as often as it is in
    both.
    """
    if not prediction or not answer:
        return float(list(prediction) == list(answer))
    shared = sum((Counter(prediction) & Counter(answer)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(answer)
    return 2 * precision * recall / (precision + recall)


def exact(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, both normalised; else 0. No answers: there is none, and
    the empty prediction is right."""
    return float(normal(prediction) in {normal(answer) for answer in _scored(answers)})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Highest F1 of normalised tokens over the answers, in [0, 1]; see `exact` for no answers."""
    tokens = normal(prediction).split()
    return max(overlap_f1(tokens, normal(answer).split()) for answer in _scored(answers))


def _scored(answers: Sequence[str]) -> list[str]:
    """Answers that normalisation leaves something of; of none the empty one, as the official script does."""
    return [answer for answer in answers if normal(answer)] or [""]
