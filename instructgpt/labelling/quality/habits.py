"""Signs of work without looking: answers far too fast, one rating for everything, the left reply first.

A sign is a reason to look at somebody's answers, not a verdict: who reads fast or gets easy prompts shows
some of them too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from instructgpt.labelling.quality.annotations import Annotation

Sign = Literal["fast", "slow", "same-ratings", "position", "repeated-text"]

OUTLIER = 3.5
"""Robust z beyond which a value is an outlier (Iglewicz and Hoaglin 1993, "How to detect and handle
outliers")."""
FAST_MEDIAN = -2.0
"""A labeler whose median answer lies this far below everybody's median hurries."""
_FAR = 99.0  # as far as a report can say; infinity is no JSON
LEAST_ANSWERS = 10
"""Fewer answers of a labeler show no sign."""


@dataclass(frozen=True)
class Habits:
    """How one labeler works.

    Attributes:
        answers: number of answers.
        median_seconds: median time; None if no time is known.
        time_z: their median on the robust scale of all answers of the same kind, in log seconds.
        fast, slow: share of their answers beyond +-3.5 on that scale.
        same_ratings: share of answers that give all of three or more replies the same rating, without ranking
            them all equal.
        all_tied: share of rankings that tie everything.
        all_bad: share of answers marked as all bad.
        ties: share of their pairs of replies that they tied.
        first_best: how often the reply shown first is the only best, over how often it would be by chance; 1
            is no bias.
        position_z: standard normal test of ranks against positions; positive prefers what is shown first.
        repeated_text: share of written answers whose text they had written before.
        signs: what is out of the ordinary.
    """

    answers: int
    median_seconds: float | None
    time_z: float | None
    fast: float | None
    slow: float | None
    same_ratings: float | None
    all_tied: float | None
    all_bad: float | None
    ties: float | None
    first_best: float | None
    position_z: float | None
    repeated_text: float | None
    signs: tuple[Sign, ...]


def robust_z(values: Sequence[float], among: Sequence[float]) -> np.ndarray:
    """(value - median) / scale, where scale is 1.4826 times the median absolute deviation of `among`.

    Where more than half of `among` are equal the scale is 1.2533 times the mean absolute deviation instead;
    where all are equal every value there is 0 and others are infinitely far.
    """
    reference = np.asarray(among, dtype=float)
    middle = float(np.median(reference))
    away = np.abs(reference - middle)
    scale = 1.4826 * float(np.median(away)) or 1.2533 * float(np.mean(away))
    difference = np.asarray(values, dtype=float) - middle
    if scale == 0.0:
        return np.where(difference == 0.0, 0.0, np.copysign(math.inf, difference))
    return np.asarray(difference / scale)


def habits(annotations: Sequence[Annotation], labelers: Sequence[str] = ()) -> dict[str, Habits]:
    """Labeler id -> how they work, compared with everybody in `annotations`.

    Args:
        annotations: of all labelers.
        labelers: ids that get an entry even without an annotation.
    """
    theirs: dict[str, list[Annotation]] = {labeler: [] for labeler in labelers}
    for annotation in annotations:
        theirs.setdefault(annotation.labeler, []).append(annotation)
    scores = _time_scores(annotations)
    return {labeler: _habits(found, scores.get(labeler, [])) for labeler, found in theirs.items()}


def _time_scores(annotations: Sequence[Annotation]) -> dict[str, list[float]]:
    """Labeler -> robust z of the log seconds of each answer among those of its kind and number of replies."""
    alike: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for annotation in annotations:
        if annotation.seconds is not None:
            key = (annotation.kind, len(annotation.shown or annotation.ranks))
            # Below a second is a clock's error or a script; either way the logarithm must exist.
            alike.setdefault(key, []).append((annotation.labeler, math.log(max(annotation.seconds, 0.1))))
    scores: dict[str, list[float]] = {annotation.labeler: [] for annotation in annotations}
    for found in alike.values():
        logs = [value for _, value in found]
        for (labeler, _), z in zip(found, robust_z(logs, logs), strict=True):
            scores[labeler].append(min(max(float(z), -_FAR), _FAR))
    return scores


def _habits(found: Sequence[Annotation], times: Sequence[float]) -> Habits:
    seconds = [a.seconds for a in found if a.seconds is not None]
    ranked = [a for a in found if a.ranks]
    rated = [a for a in found if len(a.ratings) >= 3]
    texts = [a.text.strip() for a in found if a.text.strip()]
    constant = [len(set(a.ratings.values())) == 1 and len(set(a.ranks.values())) != 1 for a in rated]
    first_best, position = position_bias(ranked)
    figures = {
        "time_z": float(np.median(times)) if times else None,
        "fast": _share([z < -OUTLIER for z in times]),
        "slow": _share([z > OUTLIER for z in times]),
        "same_ratings": _share(constant),
        "position_z": position,
        "repeated_text": _share([count > 0 for count in _seen_before(texts)]),
    }
    return Habits(
        answers=len(found),
        median_seconds=float(np.median(seconds)) if seconds else None,
        all_tied=_share([len(set(a.ranks.values())) == 1 for a in ranked]),
        all_bad=_share([a.all_bad for a in ranked]),
        ties=_tied_share(ranked),
        first_best=first_best,
        signs=_signs(figures, len(found)),
        **figures,
    )


def _signs(figures: Mapping[str, float | None], answers: int) -> tuple[Sign, ...]:
    if answers < LEAST_ANSWERS:
        return ()
    time_z, fast, slow = figures["time_z"], figures["fast"], figures["slow"]
    shown: dict[Sign, bool] = {
        "fast": (time_z is not None and time_z < FAST_MEDIAN) or (fast or 0.0) > 0.1,
        "slow": (slow or 0.0) > 0.1,
        "same-ratings": (figures["same_ratings"] or 0.0) > 0.5,
        "position": abs(figures["position_z"] or 0.0) > OUTLIER,
        "repeated-text": (figures["repeated_text"] or 0.0) > 0.1,
    }
    return tuple(sign for sign, present in shown.items() if present)


def position_bias(ranked: Sequence[Annotation]) -> tuple[float | None, float | None]:
    """(how often the reply shown first is the only best, over chance; normal test of rank on position).

    Replies are shown in random order, so without bias ranks and positions are independent. Over answers the
    test sums Kendall's S between position and rank, whose variance with ties among u groups of equal ranks of
    t replies is [K (K - 1) (2 K + 5) - sum of t (t - 1) (2 t + 5)] / 18 (Kendall 1975, "Rank correlation
    methods").

    Args:
        ranked: one labeler's rankings; those without `shown` don't count.
    """
    firsts, expected, score, variance = 0, 0.0, 0.0, 0.0
    for annotation in ranked:
        order = [annotation.ranks[reply] for reply in annotation.shown if reply in annotation.ranks]
        k = len(order)
        if k < 2:
            continue
        groups = Counter(order)
        if groups[min(order)] == 1:
            firsts += order[0] == min(order)
            expected += 1 / k
        values = np.array(order)
        score += float(np.triu(np.sign(values[None, :] - values[:, None]), 1).sum())
        ties = sum(t * (t - 1) * (2 * t + 5) for t in groups.values())
        variance += (k * (k - 1) * (2 * k + 5) - ties) / 18
    return (
        firsts / expected if expected else None,
        score / math.sqrt(variance) if variance else None,
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _tied_share(ranked: Sequence[Annotation]) -> float | None:
    tied = pairs = 0
    for annotation in ranked:
        k = len(annotation.ranks)
        pairs += k * (k - 1) // 2
        tied += sum(t * (t - 1) // 2 for t in Counter(annotation.ranks.values()).values())
    return tied / pairs if pairs else None


def _seen_before(texts: Sequence[str]) -> list[int]:
    seen: Counter[str] = Counter()
    found = []
    for text in texts:
        found.append(seen[text])
        seen[text] += 1
    return found
