"""Labelers whose reliability is known: the statistics of each put them in their order."""

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

pytest.importorskip("krippendorff", reason="install the label extra")

from scipy.stats import spearmanr

from instructgpt.labelling.quality.annotations import Annotation, Known
from instructgpt.labelling.quality.report import LabelerQuality, QualityReport, quality_report
from instructgpt.labelling.simulated import judge, labelers_of_reliability
from instructgpt.practice import Task, World, WorldConfig

# Standard deviations in units of utility, from hardly any noise to hardly anything else, in equal steps.
NOISES = tuple(float(noise) for noise in np.linspace(0.05, 0.93, 12))
PROMPTS, REPLIES, OVERLAP, SCREENING = 480, 5, 4, 60


def replies_to(world: World, task: Task, count: int) -> dict[str, str]:
    found: dict[str, None] = {}
    key = 0
    while len(found) < count:
        found.setdefault(world.demonstration(task, f"reply-{key}"))
        key += 1
    return {str(k): text for k, text in enumerate(found)}


@cache
def simulate(seed: int) -> QualityReport:
    """480 prompts of five replies, each judged by four of twelve labelers; 60 screening questions."""
    world = World(WorldConfig(seed=seed))
    people = labelers_of_reliability(seed, NOISES)
    rng = random.Random(seed)
    found, known = [], []
    for k in range(PROMPTS):
        task = world.task(f"reward-{k:06d}")
        shown = replies_to(world, task, REPLIES)
        for labeler in rng.sample(people, OVERLAP):
            judged = judge(world, labeler, task, shown).judgements
            found.append(
                Annotation(
                    task.id,
                    labeler.id,
                    ranks={j.reply: j.rank for j in judged},
                    ratings={j.reply: j.rating for j in judged if j.rating is not None},
                    flags={j.reply: frozenset(j.flags) for j in judged},
                )
            )
    for k in range(SCREENING):
        task = world.task(f"valid-{k:06d}")
        shown = replies_to(world, task, REPLIES)
        utility = {reply: -world.utility(task, text) for reply, text in shown.items()}
        order = sorted(set(utility.values()))
        truth = {reply: order.index(value) + 1 for reply, value in utility.items()}
        for labeler in people:
            judged = judge(world, labeler, task, shown).judgements
            known.append(
                Known(task.id, labeler.id, ranks={j.reply: j.rank for j in judged}, known_ranks=truth)
            )
    return quality_report(found, known=known)


STATISTICS: dict[str, Callable[[LabelerQuality], float | None]] = {
    "untied": lambda row: row.agreement.rankings.untied.value,
    "ties half": lambda row: row.agreement.rankings.ties_half.value,
    "tau-b": lambda row: row.agreement.rankings.tau.value,
    "alpha of ranks": lambda row: row.agreement.ranks.alpha.value,
    "alpha of ratings": lambda row: row.agreement.ratings.alpha.value,
    "screening": lambda row: row.screening.rankings.value if row.screening else None,
}


@pytest.mark.parametrize("seed", range(3))
def test_each_statistic_recovers_the_order_of_reliability(seed: int) -> None:
    report = simulate(seed)
    assert [row.labeler.id for row in report.labelers] == [f"labeler-{k:02d}" for k in range(12)]
    for name, statistic in STATISTICS.items():
        values = [statistic(row) for row in report.labelers]
        assert spearmanr(NOISES, values).statistic <= -0.9, (name, values)


def test_the_noisiest_is_worse_beyond_doubt_and_the_interval_says_so() -> None:
    report = simulate(0)
    best, worst = (report.labelers[k].agreement.rankings.untied for k in (0, -1))
    assert worst.high is not None and best.low is not None and worst.high < best.low
