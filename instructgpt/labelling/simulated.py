"""Simulated labelers of the practice world in front of a labelling store: they read, judge and submit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from instructgpt.labelling.store.form import Judgement, RankAnswer
from instructgpt.practice import Labeler, RankedReplies, Task, World, labelers, rank
from instructgpt.practice.utility import MANNER_WEIGHTS, words


def labelers_of_reliability(seed: int, noises: Sequence[float]) -> list[Labeler]:
    """Labelers of one taste who differ in nothing but their noise, which thus is their (un)reliability.

    Args:
        seed: of the world; it draws the rest.
        noises: standard deviation that each adds to the utility they see, in units of utility (0 to 1).
    """
    pattern = labelers(seed)[0]
    return [
        replace(
            pattern,
            id=f"labeler-{number:02d}",
            noise=noise,
            leniency=0.0,
            length_bias=0.0,
            weights=MANNER_WEIGHTS,
            careless=False,
        )
        for number, noise in enumerate(noises)
    ]


def judge(world: World, labeler: Labeler, task: Task, shown: Mapping[str, str], key: str = "") -> RankAnswer:
    """What a simulated labeler answers to a ranking task.

    Args:
        world: the world that knows the utility.
        labeler: who judges.
        task: what was asked.
        shown: key of a reply -> its text, as a lease has them.
        key: draws the noise beside labeler and task; equal keys give equal answers.
    """
    # The noise goes by the place of a reply, which must not depend on the order in which it is shown.
    order = sorted(shown, key=lambda reply: (shown[reply], reply))
    found: RankedReplies = rank(world, labeler, task, [shown[reply] for reply in order], key)
    said = zip(order, found.ranks, found.ratings, found.flags, strict=True)
    judgements = tuple(Judgement(*of_one) for of_one in said)
    return RankAnswer(judgements, all_bad=max(found.ratings) <= 1)


def seconds_for(labeler: Labeler, task: Task, texts: Sequence[str]) -> float:
    """A plausible time for a task: reading at four words a second, 6 s a reply, and a factor by chance."""
    rng = random.Random(f"seconds|{labeler.id}|{task.id}")
    reading = sum(len(words(text)) for text in (task.prompt, *texts)) / 4
    pace = random.Random(f"pace|{labeler.id}").uniform(0.8, 1.3)
    return (reading + 6.0 * len(texts)) * pace * rng.lognormvariate(0.0, 0.35)
