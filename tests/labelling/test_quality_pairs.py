"""Pairs in the same order, Kendall's tau-b, cluster bootstrap and power notes, against hand arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("krippendorff", reason="install the label extra")

from scipy.stats import kendalltau

from instructgpt.labelling.quality.annotations import Annotation
from instructgpt.labelling.quality.pairs import PairTable, RankingAgreement, ranking_agreement, signs
from instructgpt.labelling.quality.pairs import kendall_tau as our_tau
from instructgpt.labelling.quality.resampling import LEAST_ITEMS, Resamples, estimate, planned_items


def ranking(item: str, labeler: str, *ranks: int) -> Annotation:
    return Annotation(item, labeler, ranks={f"reply {k}": rank for k, rank in enumerate(ranks)})


def agreement(annotations: list[Annotation], among: list[str] | None = None) -> RankingAgreement:
    items = {item: k for k, item in enumerate(sorted({a.item for a in annotations}))}
    labelers = {who: k for k, who in enumerate(sorted({a.labeler for a in annotations}))}
    table = PairTable.of(annotations, items, labelers)
    if among is not None:
        table = table.among([labelers[who] for who in among])
    return ranking_agreement(table)


def test_agreement_by_hand() -> None:
    """Pairs (0,1) (0,2) (1,2). Ana 1 2 3: < < <. Bo 1 3 2: < < >. Cy 1 1 2: = < <.

    Ana-Bo: same, same, opposite. Ana-Cy: tied, same, same. Bo-Cy: tied, same, opposite.
    Untied: 5 same of 7. Ties half: (5 + 2 / 2) of 9. Tied 2 of 9.
    tau-b: Ana-Bo (2 - 1) / 3; Ana-Cy 2 / sqrt(3 * 2); Bo-Cy 0 / sqrt(3 * 2).
    """
    found = agreement(
        [ranking("p", "ana", 1, 2, 3), ranking("p", "bo", 1, 3, 2), ranking("p", "cy", 1, 1, 2)]
    )
    assert found.untied.value == pytest.approx(5 / 7, abs=1e-12)
    assert found.ties_half.value == pytest.approx(6 / 9, abs=1e-12)
    assert found.tied == pytest.approx(2 / 9, abs=1e-12)
    assert found.tau.value == pytest.approx((1 / 3 + 2 / math.sqrt(6) + 0) / 3, abs=1e-12)
    assert found.pairs == 9
    only = agreement(
        [ranking("p", "ana", 1, 2, 3), ranking("p", "bo", 1, 3, 2), ranking("p", "cy", 1, 1, 2)],
        ["ana", "bo"],
    )
    assert only.untied.value == pytest.approx(2 / 3, abs=1e-12)


def test_two_annotations_of_one_labeler_and_of_other_replies_are_not_compared() -> None:
    twice = [ranking("p", "ana", 1, 2), ranking("p", "ana", 2, 1)]
    assert agreement(twice).untied.value is None
    apart = [Annotation("p", "ana", ranks={"a": 1, "b": 2}), Annotation("p", "bo", ranks={"b": 1, "c": 2})]
    assert agreement(apart).pairs == 0
    # What both ranked is compared: a before b for both.
    partly = [
        Annotation("p", "ana", ranks={"a": 1, "b": 2, "c": 3}),
        Annotation("p", "bo", ranks={"a": 1, "b": 2}),
    ]
    assert (agreement(partly).untied.value, agreement(partly).pairs) == (1.0, 1)


def test_a_labeler_who_ties_everything_has_no_tau_and_half_agreement() -> None:
    found = agreement([ranking("p", "ana", 1, 2, 3), ranking("p", "bo", 1, 1, 1)])
    assert (found.untied.value, found.tau.value) == (None, None)
    assert (found.ties_half.value, found.tied) == (0.5, 1.0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=9))
@settings(max_examples=150, deadline=None)
def test_tau_is_that_of_scipy(ranks: list[tuple[int, int]]) -> None:
    first, second = ([pair[k] for pair in ranks] for k in range(2))
    replies = [str(k) for k in range(len(ranks))]
    ours = our_tau(
        signs(dict(zip(replies, first, strict=True)), replies),
        signs(dict(zip(replies, second, strict=True)), replies),
    )
    theirs = kendalltau(first, second, variant="b").statistic
    assert (math.isnan(ours) and math.isnan(theirs)) or ours == pytest.approx(theirs, abs=1e-12)


def coin(prompts: int, share: float, copies: int = 1) -> list[Annotation]:
    """Two labelers, two replies; they agree on exactly `share` of the prompts."""
    found = []
    for k in range(prompts):
        other = (1, 2) if k < share * prompts else (2, 1)
        for copy in range(copies):
            # More labelers of the same opinions: more pairs, not more prompts.
            found += [ranking(f"p{k}", f"ana{copy}", 1, 2), ranking(f"p{k}", f"bo{copy}", *other)]
    return found


@pytest.mark.parametrize("prompts", [400, 9000])
def test_the_interval_has_the_width_of_a_share(prompts: int) -> None:
    """One pair a prompt: the standard error is sqrt(p (1 - p) / n). 9,000 prompts go into bundles."""
    found = agreement(coin(prompts, 0.73)).untied
    assert found.value == pytest.approx(0.73, abs=1e-12)
    error = 1.959964 * math.sqrt(0.73 * 0.27 / prompts)
    assert found.low is not None and found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(0.73, abs=0.2 * error)


def test_more_pairs_of_the_same_prompts_do_not_narrow_the_interval() -> None:
    one, many = agreement(coin(60, 0.7)), agreement(coin(60, 0.7, copies=2), ["ana0", "bo0"])
    assert (one.untied.low, one.untied.high) == (many.untied.low, many.untied.high)
    # Ana and ana agree always, bo and bo too, each ana with each bo on 0.7: (2 + 4 * 0.7) / 6.
    pooled = agreement(coin(60, 0.7, copies=2)).untied
    assert pooled.value == pytest.approx(4.8 / 6, abs=1e-12)
    # The value of a prompt is 1 or 2 / 6, so the width is that of a share times 4 / 6, whatever the pairs.
    assert one.untied.high is not None and one.untied.low is not None
    assert pooled.high is not None and pooled.low is not None
    ratio = (pooled.high - pooled.low) / (one.untied.high - one.untied.low)
    assert ratio == pytest.approx(4 / 6, abs=1e-9)


def test_the_power_note_says_how_many_prompts_the_width_takes() -> None:
    """n = p (1 - p) (1.96 / 0.05)^2 = 303 for p = 0.73; 385 before anything is known."""
    assert planned_items() == 385
    needed = agreement(coin(100, 0.73)).untied.needed
    assert needed is not None and needed == pytest.approx(303, rel=0.2)
    assert agreement(coin(1000, 0.73)).untied.needed is None
    few = agreement(coin(LEAST_ITEMS - 1, 1.0)).untied
    assert (few.value, few.low, few.high, few.needed) == (1.0, None, None, 385)
    # Rule of three: what never happened in n prompts happens in less than 3 / n of them, so 30 for +-0.05.
    assert agreement(coin(20, 1.0)).untied.needed == math.ceil(20 * (1.5 / 20 / 0.05) ** 2) == 45
    assert agreement(coin(31, 1.0)).untied.needed is None


def test_resamples_without_a_denominator_do_not_count() -> None:
    """Of 20 prompts one has pairs: the resamples that hold it all give its share."""
    sums = np.zeros((20, 2))
    sums[3] = (1.0, 2.0)
    totals = Resamples(20, seed=1).totals(sums)
    found = estimate(0.5, totals, lambda t: t[..., 0] / t[..., 1], 20)
    assert (found.low, found.high) == (0.5, 0.5)
