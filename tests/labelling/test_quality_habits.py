"""Outliers in time, straight-lining and position bias, by hand and by enumeration."""

import math
import random
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.labelling.quality.annotations import Annotation
from instructgpt.labelling.quality.habits import habits, position_bias, robust_z

REPLIES = ("a", "b", "c", "d")


def shown(*ranks: int, seconds: float = 30.0, who: str = "ana", ratings: tuple[int, ...] = ()) -> Annotation:
    """An annotation whose replies were shown in the order of `ranks`."""
    replies = REPLIES[: len(ranks)]
    return Annotation(
        f"p{random.random()}",
        who,
        ranks=dict(zip(replies, ranks, strict=True)),
        ratings=dict(zip(replies, ratings, strict=False)),
        shown=replies,
        seconds=seconds,
    )


def took(who: str, seconds: float, kind: str = "rank") -> Annotation:
    return Annotation(f"p{random.random()}", who, kind=kind, seconds=seconds)


def test_robust_z_by_hand() -> None:
    """Median 3, absolute deviations 2 1 0 1 7, their median 1: scale 1.4826."""
    assert robust_z([10, 3, 1], [1, 2, 3, 4, 10]) == pytest.approx([7 / 1.4826, 0, -2 / 1.4826])
    # More than half equal: mean absolute deviation 1 / 4, times 1.2533.
    assert robust_z([6], [5, 5, 5, 6]) == pytest.approx([1 / (1.2533 * 0.25)])
    assert robust_z([5, 6], [5, 5, 5]).tolist() == [0.0, math.inf]


def test_hurry_and_dawdling_are_seen_on_a_log_scale() -> None:
    rng = random.Random(1)
    everybody = [took(f"steady-{k % 6}", 40 * rng.lognormvariate(0, 0.4)) for k in range(240)]
    hasty = [took("hasty", 4 * rng.lognormvariate(0, 0.4)) for _ in range(30)]
    napping = [took("napping", 40.0 if k % 4 else 3600.0) for k in range(40)]
    found = habits([*everybody, *hasty, *napping])
    assert (found["hasty"].signs, found["napping"].signs) == (("fast",), ("slow",))
    assert found["napping"].slow == 0.25
    assert all(found[f"steady-{k}"].signs == () for k in range(6))
    assert found["hasty"].time_z is not None and found["hasty"].time_z < -3
    # What others took does not matter where it is another form.
    alone = habits(
        [Annotation(f"p{k}", "ana", kind="demonstration", seconds=400 + k) for k in range(20)] + hasty
    )
    assert alone["hasty"].signs == () and alone["ana"].signs == ()


def test_the_variance_of_position_and_rank_is_that_of_all_orders() -> None:
    """For ranks 1 2 2 3 Kendall's S over all 24 orders has mean 0 and the variance that the test uses."""
    found = []
    for order in set(permutations((1, 2, 2, 3))):
        values = np.array(order)
        found.append(np.triu(np.sign(values[None, :] - values[:, None]), 1).sum())
    assert np.mean(found) == 0
    _, z = position_bias([shown(1, 2, 2, 3)])
    # In this order S is 5: 1 < 2, 2, 3 and 2, 2 < 3.
    assert z == pytest.approx(5 / np.std(found), abs=1e-12)


def test_the_left_reply_first() -> None:
    lazy = [shown(1, 2, 3, 4) for _ in range(12)]
    first_best, z = position_bias(lazy)
    assert first_best == pytest.approx(4.0)
    # S = 6 each, variance 4 * 3 * 13 / 18 each.
    assert z == pytest.approx(12 * 6 / math.sqrt(12 * 4 * 3 * 13 / 18), abs=1e-9)
    assert habits(lazy)["ana"].signs == ("position",)
    backwards = habits([shown(4, 3, 2, 1) for _ in range(12)])["ana"]
    assert backwards.position_z == pytest.approx(-z) and backwards.signs == ("position",)
    every = [shown(*order) for order in permutations((1, 2, 3, 4))]
    fair = habits(every)["ana"]
    assert fair.first_best == pytest.approx(1.0) and fair.position_z == pytest.approx(0.0, abs=1e-12)
    assert fair.signs == ()


def test_the_same_rating_for_all_while_ranking_them_apart() -> None:
    same = [shown(1, 2, 3, 4, ratings=(4, 4, 4, 4)) for _ in range(7)]
    differs = [shown(4, 3, 2, 1, ratings=(1, 2, 3, 4)) for _ in range(5)]
    found = habits([*same, *differs])["ana"]
    assert found.same_ratings == pytest.approx(7 / 12) and found.signs == ("same-ratings",)
    # Replies that are all equal deserve one rating.
    tied = habits([shown(1, 1, 1, 1, ratings=(2, 2, 2, 2)) for _ in range(12)])["ana"]
    assert (tied.same_ratings, tied.all_tied, tied.ties, tied.signs) == (0.0, 1.0, 1.0, ())


def test_texts_written_twice_and_few_answers() -> None:
    written = [Annotation(f"p{k}", "ana", "demonstration", text=f"text {k % 9}") for k in range(12)]
    assert habits(written)["ana"].repeated_text == pytest.approx(3 / 12)
    assert habits(written)["ana"].signs == ("repeated-text",)
    assert habits(written[:9])["ana"].signs == ()
    assert habits([shown(1, 2, 3, 4) for _ in range(9)])["ana"].signs == ()
    assert habits([], ["bo"])["bo"].answers == 0
