"""Agreement with known answers: the paper's screening test of rankings and of flags on sensitive speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instructgpt.labelling.quality.annotations import Known
from instructgpt.labelling.quality.coefficients import ValueAgreement, count_values, value_agreement
from instructgpt.labelling.quality.pairs import signs
from instructgpt.labelling.quality.resampling import Array, Estimate, Resamples, estimate

PASS_MARK = 0.75
"""The paper's soft cut-off, for flags and for comparisons (appendix B.1)."""


@dataclass(frozen=True)
class ScreeningAgreement:
    """How one labeler's screening answers agree with the known ones.

    Attributes:
        questions: questions answered.
        rankings: share of the known untied pairs put in the known order, a tie of theirs counting half.
        flags: share of boxes (reply and flag) ticked or left as known.
        flag_values: the same boxes with alpha and AC1 beside the percent, for rare flags.
    """

    questions: int
    rankings: Estimate
    flags: Estimate
    flag_values: ValueAgreement | None


def screening_agreement(known: Sequence[Known], flags: Sequence[str], seed: int = 0) -> ScreeningAgreement:
    """One labeler's agreement with known answers, with bootstrap intervals over questions.

    Args:
        known: one labeler's answers.
        flags: the flags that could be ticked.
        seed: draws the resamples.
    """
    ordered = [_pairs(answer) for answer in known if answer.known_ranks]
    boxes = {answer.item: _boxes(answer, flags) for answer in known if answer.known_flags}
    return ScreeningAgreement(
        questions=len(known),
        rankings=_ratio(np.array(ordered, dtype=float).reshape(-1, 2), seed),
        flags=_ratio(
            np.array(
                [[sum(a == b for a, b in rows), len(rows)] for rows in boxes.values()], dtype=float
            ).reshape(-1, 2),
            seed,
        ),
        flag_values=_flag_values(boxes, seed),
    )


def _pairs(answer: Known) -> tuple[float, int]:
    """(pairs in the known order, ties half; known untied pairs) of one question."""
    replies = sorted(answer.ranks.keys() & answer.known_ranks.keys())
    ours, theirs = signs(answer.ranks, replies), signs(answer.known_ranks, replies)
    untied = theirs != 0
    return float((ours == theirs)[untied].sum() + 0.5 * (ours == 0)[untied].sum()), int(untied.sum())


def _boxes(answer: Known, flags: Sequence[str]) -> list[tuple[bool, bool]]:
    """(ticked, known) of every reply and flag of one question."""
    return [
        (flag in answer.flags.get(reply, frozenset()), flag in ticked)
        for reply, ticked in sorted(answer.known_flags.items())
        for flag in flags
    ]


def _ratio(sums: Array, seed: int) -> Estimate:
    if len(sums) == 0 or sums[:, 1].sum() == 0:
        return Estimate(None, None, None, 0, None)
    totals = Resamples(len(sums), seed).totals(sums)
    whole = sums.sum(axis=0)
    return estimate(float(whole[0] / whole[1]), totals, lambda t: t[..., 0] / t[..., 1], len(sums))


def _flag_values(boxes: dict[str, list[tuple[bool, bool]]], seed: int) -> ValueAgreement | None:
    if not boxes:
        return None
    rows = [
        ((number, box), who, value)
        for number, found in enumerate(boxes.values())
        for box, pair in enumerate(found)
        for who, value in enumerate(pair)
    ]
    counts = count_values(rows, (False, True))
    clusters = np.array([number for number, found in enumerate(boxes.values()) for _ in found])
    return value_agreement(type(counts)(counts.counts, clusters), "nominal", Resamples(len(boxes), seed))
