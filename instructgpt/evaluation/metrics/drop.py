"""Answers as DROP scores them (arXiv:1903.00161 §5): sets of spans, numbers that must agree."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

import numpy as np

from instructgpt.errors import ConfigError

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BETWEEN = re.compile(" |-")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _token(token: str) -> str:
    """In lower case: a number as Python writes a float, another token without punctuation and articles."""
    token = token.lower()
    if not _is_number(token):
        token = "".join(character for character in token if character not in _PUNCTUATION)
    if _is_number(token):
        token = str(float(token))
    return " ".join(_ARTICLES.sub(" ", token).split())


def normal(text: str) -> str:
    """Tokens cut at spaces and hyphens, each normalised: `7,761` and `7761` are both `7761.0`."""
    return " ".join(token for token in map(_token, _BETWEEN.split(text)) if token)


def _bag_f1(prediction: set[str], answer: set[str]) -> float:
    """F1 of two sets of tokens; 0 where the answer has numbers and the prediction none of them."""
    numbers = {token for token in answer if _is_number(token)}
    if numbers and not numbers & prediction:
        return 0.0
    shared = len(prediction & answer)
    precision = shared / len(prediction) if prediction else 1.0
    recall = shared / len(answer) if answer else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score(prediction: Sequence[str], answer: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of predicted spans against one reference answer, a sequence of spans.

    F1 is the mean over max(number of spans) of the F1 of a best one-to-one matching, rounded to two decimals
    as the official script does.

    Raises:
        ConfigError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        cure = "pip install 'instructgpt[eval]'"
        raise ConfigError("DROP's matching of spans needs scipy", "drop", cure) from error
    ours, theirs = [normal(span) for span in prediction], [normal(span) for span in answer]
    exact = float(set(ours) == set(theirs) and len(ours) == len(theirs))
    scores = np.array([[_bag_f1(set(p.split()), set(a.split())) for p in ours] for a in theirs])  # (A, P)
    rows, columns = linear_sum_assignment(-scores)
    total = float(scores[rows, columns].sum())
    return exact, float(np.round(total / max(len(ours), len(theirs)), 2))


def best(prediction: Sequence[str], answers: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Highest exact match and highest F1 over the reference answers (the annotator's and the validators');
    those that are blank are passed over."""
    found = [score(prediction, answer) for answer in answers if answer and answer[0].strip()]
    return max((e for e, _ in found), default=0.0), max((f for _, f in found), default=0.0)
