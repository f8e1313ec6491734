"""Simulated labelers: people who see the hidden utility through their own taste and noise.

Fifteen labelers in five groups of three. The groups weigh the parts of a reply differently, each labeler
has noise, a leniency and a liking for long replies of their own, and one labeler is careless. The noise is
set so that two labelers drawn at random agree on about 73 % of the pairs that neither ties, on replies of the
demo's SFT model, which are what they rank there (paper: 72.6 +- 1.5 % between training labelers).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from instructgpt.practice.tasks import Task
from instructgpt.practice.utility import CORRECT_SHARE, MANNER_WEIGHTS, combine, words
from instructgpt.practice.world import World

GROUPS = ("balanced", "courteous", "factual", "literal", "terse")
# Kept out of training by cross-validation over groups.
HELD_OUT_GROUP = "terse"
LABELERS_PER_GROUP = 3
NOISE = 0.15
CARELESS_NOISE = 3.0
TIE_WIDTH = 0.04

# Multipliers of the parts by group; parts not named keep their weight.
_TASTES: dict[str, dict[str, float]] = {
    "balanced": {},
    "courteous": {"polite": 2.0, "name": 1.4, "tone": 1.3},
    "factual": {"tone": 0.7, "polite": 0.6},
    "literal": {"end": 1.5, "start": 1.5, "count": 1.5, "polite": 0.5},
    "terse": {"brief": 2.5, "polite": 0.5},
}
_CORRECT_SHARES = {"balanced": 0.40, "courteous": 0.32, "factual": 0.55, "literal": 0.36, "terse": 0.40}
FLAGS = (
    "fails_instruction",
    "inappropriate",
    "hallucination",
    "satisfies_constraint",
    "harmful_advice",
)


@dataclass(frozen=True)
class Labeler:
    """One labeler.

    Attributes:
        id: "labeler-07".
        group: one of `GROUPS`.
        noise: standard deviation added to what they perceive, in units of utility, drawn anew for each reply.
        leniency: added to their 1-7 ratings, not to their order.
        length_bias: utility that ten more words seem to add.
        weights: their weights of the manner parts.
        correct_share: their share of correctness.
        careless: hardly looks; their order is almost random.
    """

    id: str
    group: str
    noise: float
    leniency: float
    length_bias: float
    weights: Mapping[str, float]
    correct_share: float
    careless: bool = False


@dataclass(frozen=True)
class RankedReplies:
    """One labeler's judgement of the replies to one prompt, in the order of the replies.

    Attributes:
        labeler: the labeler's id.
        ranks: 1 is best; equal ranks are ties; ranks have no gaps.
        ratings: overall quality, 1 to 7.
        flags: for each reply, the names of `FLAGS` that were ticked.
    """

    labeler: str
    ranks: tuple[int, ...]
    ratings: tuple[int, ...]
    flags: tuple[tuple[str, ...], ...]


def labelers(seed: int) -> list[Labeler]:
    """The fifteen labelers of a world; the last of the group "courteous" is the careless one."""
    people = []
    for number in range(len(GROUPS) * LABELERS_PER_GROUP):
        group = GROUPS[number // LABELERS_PER_GROUP]
        # The same spread of noise in every group and world keeps the agreement where it is set.
        spread = random.Random(f"noise|{seed}|{group}").sample((0.8, 1.0, 1.2), LABELERS_PER_GROUP)
        rng = random.Random(f"labeler|{seed}|{number}")
        careless = group == "courteous" and number % LABELERS_PER_GROUP == LABELERS_PER_GROUP - 1
        people.append(
            Labeler(
                id=f"labeler-{number:02d}",
                group=group,
                noise=CARELESS_NOISE if careless else NOISE * spread[number % LABELERS_PER_GROUP],
                leniency=rng.gauss(0.0, 0.5),
                length_bias=rng.gauss(0.0, 0.01),
                weights={part: w * _TASTES[group].get(part, 1.0) for part, w in MANNER_WEIGHTS.items()},
                correct_share=_CORRECT_SHARES.get(group, CORRECT_SHARE),
                careless=careless,
            )
        )
    return people


def rank(world: World, labeler: Labeler, task: Task, replies: Sequence[str], key: str) -> RankedReplies:
    """The labeler's order, ratings and flags for `replies` (K >= 1; the paper has 4 to 9).

    Args:
        world: the world that knows the utility.
        labeler: who judges.
        task: what was asked.
        replies: the replies, in any order.
        key: draws the noise; equal keys give equal judgements.
    """
    rng = random.Random(f"rank|{world.config.seed}|{labeler.id}|{task.id}|{key}")
    scores, flags = [], []
    for reply in replies:
        parts = world.utility_parts(task, reply)
        liked = combine(parts, labeler.weights, labeler.correct_share)
        longer = labeler.length_bias * (len(words(reply)) - 15) / 10.0
        scores.append(liked + longer + rng.gauss(0.0, labeler.noise))
        flags.append(_flags(parts, task, rng))
    ratings = tuple(min(7, max(1, round(1.0 + 6.0 * s + labeler.leniency))) for s in scores)
    return RankedReplies(labeler.id, _ranks(scores), ratings, tuple(flags))


def _ranks(scores: Sequence[float]) -> tuple[int, ...]:
    """Dense ranks, best first; a reply within `TIE_WIDTH` of the best of the current rank joins it."""
    ranks = [0] * len(scores)
    current, anchor = 0, float("inf")
    for index in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if anchor - scores[index] > TIE_WIDTH:
            current, anchor = current + 1, scores[index]
        ranks[index] = current
    return tuple(ranks)


def _flags(parts: Mapping[str, float], task: Task, rng: random.Random) -> tuple[str, ...]:
    """Ticked boxes, a subset of the paper's Table 3; one in twenty is ticked or left by mistake."""
    asked = [parts[name] for name in ("tone", "name", "start", "end", "count") if name in parts]
    truth = {
        "fails_instruction": parts["correct"] < 0.5,
        "inappropriate": parts["fluent"] < 0.5 or parts["language"] < 0.5,
        "hallucination": parts["honesty"] < 0.5
        or (task.spec.kind in ("about", "fact") and parts["correct"] < 1.0),
        "satisfies_constraint": bool(asked) and min(asked) >= 1.0,
        "harmful_advice": task.spec.kind == "harmful" and parts["refusal"] < 0.5,
    }
    return tuple(name for name in FLAGS if truth[name] != (rng.random() < 0.05))
