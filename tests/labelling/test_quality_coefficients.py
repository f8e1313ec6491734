"""Krippendorff's alpha and Gwet's AC1 against their authors' published examples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.labelling.quality.coefficients import (
    Counts,
    alpha_of_coincidences,
    coincidences,
    count_values,
    gwet_ac1,
    krippendorff_alpha,
    percent_agreement,
    value_agreement,
)
from instructgpt.labelling.quality.resampling import Resamples

_ = None
# Four observers, twelve units, values missing: example C of Krippendorff 2011, "Computing Krippendorff's
# Alpha-Reliability", and `cac.raw4raters` of Gwet's own package irrCAC.
FOUR = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)


def rows(table: tuple[tuple[object, ...], ...]) -> list[tuple[int, int, object]]:
    return [
        (unit, observer, value)
        for observer, values in enumerate(table)
        for unit, value in enumerate(values)
        if value is not None
    ]


def two_raters(table: list[list[int]]) -> Counts:
    """Counts of a contingency table of two raters."""
    cells = [(i, j) for i, row in enumerate(table) for j, times in enumerate(row) for _again in range(times)]
    return count_values(
        [(n, rater, value) for n, pair in enumerate(cells) for rater, value in enumerate(pair)],
        range(len(table)),
    )


def test_krippendorffs_examples() -> None:
    """Sections A to D of "Computing Krippendorff's Alpha-Reliability" (2011)."""
    binary = ((0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0))
    assert krippendorff_alpha(count_values(rows(binary)), "nominal") == pytest.approx(0.095, abs=5e-4)
    nominal = (tuple("aabbdcccedda"), tuple("babbbccceddd"))
    assert krippendorff_alpha(count_values(rows(nominal)), "nominal") == pytest.approx(0.692, abs=5e-4)
    four = count_values(rows(FOUR))
    assert krippendorff_alpha(four, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(four, "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_gwets_examples() -> None:
    """irrCAC's overview: `cont3x3abstractors` (AC1 0.8493305, alpha 0.7972585, percent 0.89), and
    `cac.raw4raters` (AC1 0.77544, percent 0.8181818)."""
    abstractors = two_raters([[13, 0, 0], [0, 20, 7], [0, 4, 56]])
    assert gwet_ac1(abstractors) == pytest.approx(0.8493305, abs=5e-8)
    assert krippendorff_alpha(abstractors, "nominal") == pytest.approx(0.7972585, abs=5e-8)
    assert percent_agreement(abstractors) == pytest.approx(0.89, abs=1e-12)
    four = count_values(rows(FOUR))
    assert gwet_ac1(four) == pytest.approx(0.77544, abs=5e-6)
    assert percent_agreement(four) == pytest.approx(0.8181818, abs=5e-8)


def test_a_rare_flag_looks_bad_in_alpha_and_not_in_ac1() -> None:
    """118 both ticked, 7 disagree, nobody left both empty (Gwet 2002, 125 patients).

    Percent 118 / 125 = 0.944. AC1: p = 243 / 250, pe = 2 p (1 - p) = 0.054432, (0.944 - pe) / (1 - pe).
    Alpha: n = 250, n0 = 7, n1 = 243, 1 - 249 * 7 / (7 * 243).
    """
    flag = two_raters([[0, 2], [5, 118]])
    assert percent_agreement(flag) == pytest.approx(0.944, abs=1e-12)
    assert gwet_ac1(flag) == pytest.approx((0.944 - 0.054432) / (1 - 0.054432), abs=1e-12)
    assert krippendorff_alpha(flag, "nominal") == pytest.approx(1 - 249 / 243, abs=1e-12)


@given(arrays(np.int64, st.tuples(st.integers(1, 12), st.integers(2, 5)), elements=st.integers(0, 3)))
@settings(max_examples=100, deadline=None)
def test_alpha_of_resamples_is_the_alpha_of_the_package(table: np.ndarray) -> None:
    counts = Counts(table.astype(float), np.arange(len(table)) // 2)
    for level in ("nominal", "ordinal"):
        theirs = krippendorff_alpha(counts, level)
        with np.errstate(invalid="ignore", divide="ignore"):
            ours = float(alpha_of_coincidences(coincidences(counts).sum(axis=0), level))
        if math.isfinite(theirs):
            assert ours == pytest.approx(theirs, abs=1e-9)


def test_alpha_of_many_resamples_is_that_of_each() -> None:
    generator = np.random.default_rng(0)
    many = [Counts(generator.integers(0, 3, (20, 4)).astype(float), np.arange(20)) for _ in range(5)]
    totals = np.stack([coincidences(counts).sum(axis=0) for counts in many])
    for level in ("nominal", "ordinal"):
        each = [krippendorff_alpha(counts, level) for counts in many]
        assert alpha_of_coincidences(totals, level) == pytest.approx(each, abs=1e-12)


def test_nothing_to_compare_is_no_number() -> None:
    alone = count_values([("p", "ana", 1), ("q", "bo", 2)])
    same = count_values([("p", "ana", 1), ("p", "bo", 1)], (1, 2))
    resamples = Resamples(2)
    for counts in (alone, same):
        found = value_agreement(counts, "nominal", resamples)
        assert found.alpha.value is None
    assert value_agreement(alone, "nominal", resamples).percent.value is None
    assert value_agreement(same, "nominal", resamples).percent.value == 1.0
    assert value_agreement(same, "nominal", resamples).ac1.value == 1.0  # type: ignore[union-attr]
    empty = value_agreement(Counts(np.zeros((0, 2)), np.zeros(0, dtype=np.int64)), "nominal", Resamples(0))
    assert (empty.units, empty.percent.value) == (0, None)


def test_intervals_lie_around_the_value_and_are_the_same_again() -> None:
    generator = np.random.default_rng(3)
    truth = generator.random((300, 1)) < 0.3
    ticks = truth ^ (generator.random((300, 3)) < 0.1)
    counts = Counts(np.stack([(~ticks).sum(1), ticks.sum(1)], axis=1).astype(float), np.arange(300) // 3)
    found = value_agreement(counts, "nominal", Resamples(100, seed=5))
    for estimate in (found.percent, found.alpha, found.ac1):
        assert estimate is not None and estimate.value is not None
        assert estimate.low is not None and estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
        assert estimate.items == 100
    # Of two labelers one errs in 0.1 * 0.9 * 2 = 0.18 of the boxes.
    assert found.percent.low < 0.82 < found.percent.high  # type: ignore[operator]
    assert value_agreement(counts, "nominal", Resamples(100, seed=5)) == found
