"""Answers as QuAC scores them (arXiv:1808.07036 §5): F1 against several people, and beside people's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from instructgpt.evaluation.metrics.squad import normal, overlap_f1

CANNOT_ANSWER = "CANNOTANSWER"
MIN_HUMAN_F1 = 0.4
"""Questions on which people agree less are left out of every figure."""


@dataclass(frozen=True)
class QuacScore:
    """A prediction beside people's answers, both F1 in [0, 1]."""

    f1: float
    human_f1: float
    answerable: bool

    @property
    def counts(self) -> bool:
        """People agree enough on the question for it to be part of the figures."""
        return self.human_f1 >= MIN_HUMAN_F1

    @property
    def as_good(self) -> bool:
        """The prediction is at least as good as people are: HEQ, the human equivalence score."""
        return self.f1 >= self.human_f1


def settled(answers: Sequence[str]) -> list[str]:
    """References that count: `CANNOTANSWER` alone if at least half of the people gave it, else the spans."""
    spans = [answer for answer in answers if answer != CANNOT_ANSWER]
    return [CANNOT_ANSWER] if len(answers) - len(spans) >= len(spans) else spans


def _span_f1(prediction: str, answer: str) -> float:
    if answer == CANNOT_ANSWER:
        return float(prediction == CANNOT_ANSWER)
    return _tokens_f1(prediction, answer)


def _tokens_f1(prediction: str, answer: str) -> float:
    """As the official script: nothing in common, or nothing at all, is 0."""
    tokens, others = normal(prediction).split(), normal(answer).split()
    return overlap_f1(tokens, others) if tokens and others else 0.0


def _without(answers: Sequence[str], i: int) -> list[str]:
    return [answer for j, answer in enumerate(answers) if j != i]


def score(prediction: str, answers: Sequence[str]) -> QuacScore:
    """F1 of a prediction: with several references the mean over leaving one out of the highest F1, so that
    it can be compared with people's, who are scored against one reference less."""
    refs = settled(answers)
    if len(refs) == 1:
        return QuacScore(_span_f1(prediction, refs[0]), 1.0, refs[0] != CANNOT_ANSWER)
    each = [_span_f1(prediction, ref) for ref in refs]
    ours = sum(max(each[:i] + each[i + 1 :]) for i in range(len(refs))) / len(refs)
    human = sum(max(_tokens_f1(ref, other) for other in _without(refs, i)) for i, ref in enumerate(refs))
    return QuacScore(ours, human / len(refs), True)


def summary(scores: Sequence[QuacScore], dialogues: Sequence[str]) -> dict[str, float]:
    """Figures of a whole set, each in [0, 1].

    Args:
        scores: one a question.
        dialogues: the dialogue of each question; its questions stand together.

    Returns:
        `f1`; `heq_q`, the share of questions answered at least as well as people do; `heq_d`, the share of
        dialogues in which every question that counts is; `unanswerable`, accuracy where there is no answer
        (absent if there is no such question).
    """
    counted = [one for one in scores if one.counts]
    whole = [
        all(one.as_good for _, one in group if one.counts)
        for _, group in groupby(zip(dialogues, scores, strict=True), key=lambda pair: pair[0])
    ]
    without = [one.f1 for one in counted if not one.answerable]
    figures = {
        "f1": _mean([one.f1 for one in counted]),
        "heq_q": _mean([float(one.as_good) for one in counted]),
        "heq_d": _mean([float(good) for good in whole]),
    }
    return figures | ({"unanswerable": _mean(without)} if without else {})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
