"""A judge that is a program compares replies: by scores, or, asked for a choice, in both orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from instructgpt.evaluation.judge import Judge
from instructgpt.evaluation.preference.comparisons import Comparison, Replies
from instructgpt.evaluation.statistics import outcomes


@dataclass(frozen=True)
class Pair:
    """Two replies as a judge sees them, in this order."""

    prompt: int
    """Row of `Replies.prompts`."""
    first: str
    second: str


class Chooser(Protocol):
    """Says which of two replies is better, having read them in an order."""

    name: str

    def choose(self, replies: Replies, pairs: Sequence[Pair]) -> list[float | None]:
        """For each pair 1 if the reply shown first is better, 0 the second, 0.5 a tie; None if the answer
        says none of these."""
        ...


@dataclass(frozen=True)
class Judged:
    """What a judge said, and how much of it was its taste for a place."""

    comparisons: tuple[Comparison, ...]
    unreadable: int = 0
    """Pairs left out: in one order or both, the answer said nothing."""
    first_rate: float | None = None
    """Share of choices (ties half) for the reply shown first; 0.5 is no taste for a place."""
    consistent: float | None = None
    """Share of pairs on which both orders agree."""


def by_scores(judge: Judge, replies: Replies, baseline: str) -> Judged:
    """Every model against the baseline by a judge's scores; equal scores tie. Order plays no part."""
    scores = {name: judge.score(replies.prompts, texts) for name, texts in replies.texts.items()}
    found = []
    for name in replies.texts:
        if name == baseline:
            continue
        for row, outcome in enumerate(outcomes(scores[name], scores[baseline])):
            found.append(_comparison(replies, row, name, baseline, outcome, judge.name))
    return Judged(tuple(found))


def by_choices(chooser: Chooser, replies: Replies, baseline: str) -> Judged:
    """Every model against the baseline by choices in both orders.

    The outcome is the mean of both: a judge that changes its mind with the order has not said which is
    better, and it counts as a tie (MT-Bench, arXiv:2306.05685, section 3.4).
    """
    pairs = list(_both_orders(replies, baseline))
    said = chooser.choose(replies, pairs)
    found, unreadable, agreeing = [], 0, 0
    for place in range(0, len(pairs), 2):
        pair, there, back = pairs[place], said[place], said[place + 1]
        if there is None or back is None:
            unreadable += 1
            continue
        agreeing += there == 1 - back
        outcome = (there + 1 - back) / 2
        found.append(_comparison(replies, pair.prompt, pair.first, pair.second, outcome, chooser.name))
    read = [choice for choice in said if choice is not None]
    return Judged(
        tuple(found),
        unreadable,
        sum(read) / len(read) if read else None,
        agreeing / len(found) if found else None,
    )


def _both_orders(replies: Replies, baseline: str) -> Iterator[Pair]:
    for name in replies.texts:
        if name != baseline:
            for row in range(len(replies.prompts)):
                yield Pair(row, name, baseline)
                yield Pair(row, baseline, name)


def _comparison(
    replies: Replies, row: int, first: str, second: str, outcome: float, judge: str
) -> Comparison:
    texts: Mapping[str, Sequence[str]] = replies.texts
    lengths = (len(texts[first][row]), len(texts[second][row]))
    return Comparison(replies.prompts[row].id, first, second, outcome, judge, lengths)
