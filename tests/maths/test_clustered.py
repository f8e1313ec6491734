"""Means in clusters: by hand, against the textbook's t test, and against brute force over all resamples."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from scipy import stats

from instructgpt.maths import clustered
from instructgpt.maths.clustered import (
    ClusteredMean,
    clustered_mean,
    equal_weights,
    resampled_weights,
    wilson_interval,
)


def test_singles_are_the_standard_error_of_a_mean() -> None:
    values = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0])
    found = clustered_mean(values, torch.ones(7), [torch.arange(7)])
    assert found.mean == pytest.approx(4.5 / 7, abs=1e-15)
    assert math.sqrt(found.variance) == pytest.approx(stats.sem(values.numpy()), abs=1e-12)
    assert found.clusters == 7


def test_equal_clusters_are_the_standard_error_of_their_means() -> None:
    values = torch.tensor([1.0, 1.0, 0.0, 0.5, 0.0, 0.0])
    found = clustered_mean(values, torch.ones(6), [torch.tensor([5, 5, 2, 2, 9, 9])])
    assert math.sqrt(found.variance) == pytest.approx(stats.sem([1.0, 0.25, 0.0]), abs=1e-12)
    assert (found.mean, found.clusters) == (pytest.approx(2.5 / 6), 3)


def test_two_clusterings_by_hand() -> None:
    # Two prompts (rows) by two labelers (columns), one vote each: 1 1 / 1 0. The mean is 3/4, the parts
    # (value - 3/4) / 4 are 1/16 1/16 / 1/16 -3/16.
    values = torch.tensor([1.0, 1.0, 1.0, 0.0])
    prompts, labelers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    # sums over prompts 2/16 and -2/16, squared and times 2/1: 16/256; over labelers the same; over single
    # votes (1 + 1 + 1 + 9) / 256 times 4/3: 16/256. 16 + 16 - 16 = 16.
    found = clustered_mean(values, torch.ones(4), [prompts, labelers])
    assert found == ClusteredMean(0.75, pytest.approx(16 / 256), 2)
    # 1 0 / 0 1: sums over prompts and labelers are all 0, and the difference would be negative
    crossed = clustered_mean(torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.ones(4), [prompts, labelers])
    assert crossed.variance == 0.0
    one = clustered_mean(values, torch.ones(4), [prompts])
    assert clustered_mean(values, torch.ones(4), [prompts, prompts]).variance == pytest.approx(one.variance)


def slow_variance(parts: list[float], clusters: Sequence[tuple[int, ...]]) -> float:
    sums = [sum(p for p, c in zip(parts, clusters, strict=True) if c == one) for one in set(clusters)]
    return sum(each**2 for each in sums) * len(sums) / (len(sums) - 1)


def test_two_clusterings_against_the_formula() -> None:
    """Cameron, Gelbach and Miller's sum, with its intersection as pairs of numbers."""
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(8, (40,), generator=draw)
    labelers = torch.randint(3, (40,), generator=draw)
    values = (prompts / 14 + labelers / 4).double()
    weights = torch.rand(40, generator=draw, dtype=torch.float64) + 0.5
    mean = float((weights * values).sum() / weights.sum())
    parts = (weights * (values - mean) / weights.sum()).tolist()
    rows, columns = [(p,) for p in prompts.tolist()], [(x,) for x in labelers.tolist()]
    both = [row + column for row, column in zip(rows, columns, strict=True)]
    by_one, by_other = slow_variance(parts, rows), slow_variance(parts, columns)
    expected = by_one + by_other - slow_variance(parts, both)
    assert expected > max(by_one, by_other)
    found = clustered_mean(values, weights, [prompts, labelers])
    assert found == ClusteredMean(pytest.approx(mean), pytest.approx(expected), 3)


def test_every_group_counts_once() -> None:
    groups = torch.tensor([3, 1, 3, 3])
    weights = equal_weights(groups)
    assert weights.tolist() == [1 / 3, 1.0, 1 / 3, 1 / 3]
    values = torch.tensor([1.0, 0.0, 1.0, 0.5])  # means 5/6 and 0
    assert clustered_mean(values, weights, [groups]).mean == pytest.approx(5 / 12, abs=1e-12)


def test_nothing_to_take_a_mean_of() -> None:
    with pytest.raises(ValueError, match="values"):
        clustered_mean(torch.empty(0), torch.empty(0), [torch.empty(0)])
    with pytest.raises(ValueError, match="one or two"):
        clustered_mean(torch.ones(1), torch.ones(1), [])


def test_with_many_clusters_it_is_wilsons_interval() -> None:
    # statsmodels.stats.proportion_confint(60, 100, method="wilson") gives 0.502003, 0.690599
    found = ClusteredMean(0.6, 0.6 * 0.4 / 100, 10**7)
    assert wilson_interval(found) == pytest.approx((0.502003, 0.690599), abs=1e-6)


def test_all_won_is_wilson_with_the_number_of_clusters() -> None:
    # t^2 / (n + t^2) with n = 20 and t = 2.093024 (19 degrees of freedom): 1 - 0.179679
    low, high = wilson_interval(ClusteredMean(1.0, 0.0, 20))
    t = stats.t.ppf(0.975, 19)
    assert (low, high) == (pytest.approx(20 / (20 + t * t), abs=1e-12), 1.0)
    assert wilson_interval(ClusteredMean(0.0, 0.0, 20)) == (0.0, pytest.approx(1 - low, abs=1e-12))
    # rounding may leave a little spread, or a mean a little above 1
    for rounded in (ClusteredMean(1.0, 1e-20, 20), ClusteredMean(1 + 1e-9, 0.0, 20)):
        assert wilson_interval(rounded) == (low, high)


def test_no_end_leaves_the_range() -> None:
    """The formula gives 1 for all won, but for rounding."""
    for clusters in range(2, 30):
        assert wilson_interval(ClusteredMean(1.0, 0.0, clusters))[1] <= 1.0


def test_one_cluster_says_nothing() -> None:
    assert wilson_interval(ClusteredMean(0.6, 0.0, 1)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("variance", "clusters", "n"),
    [
        (0.004, 15, 0.7 * 0.3 / 0.004),
        (0.004, 2, 0.7 * 0.3 / 0.004),
        (0.0, 15, 15),  # no value differs from another: as many as there are clusters
    ],
)
def test_the_ends_are_where_the_score_test_just_refutes(variance: float, clusters: int, n: float) -> None:
    """Wilson: |mean - p| = t sqrt(p (1 - p) / n) at both ends p."""
    t = stats.t.ppf(0.975, clusters - 1)
    for end in wilson_interval(ClusteredMean(0.7, variance, clusters)):
        assert abs(0.7 - end) == pytest.approx(t * math.sqrt(end * (1 - end) / n), abs=1e-12)


def test_resamples_have_the_moments_of_all_resamples() -> None:
    """Three clusters: all 27 resamples written out; the mean of the weighted means, and its variance."""
    values, clusters = torch.tensor([1.0, 0.5, 0.0, 1.0]), torch.tensor([0, 0, 1, 2])
    weights = equal_weights(clusters)
    means = {0: 0.75, 1: 0.0, 2: 1.0}
    every = [sum(means[c] for c in drawn) / 3 for drawn in itertools.product(range(3), repeat=3)]
    expected = sum(every) / 27
    spread = math.sqrt(sum((m - expected) ** 2 for m in every) / 27)
    drawn = torch.cat(
        [w @ values.double() / w.sum(1) for w in resampled_weights(weights, [clusters], 3, 20000)]
    )
    # four standard errors of a mean of 20,000 draws, and of a standard deviation
    assert float(drawn.mean()) == pytest.approx(expected, abs=4 * spread / math.sqrt(20000))
    assert float(drawn.std()) == pytest.approx(spread, rel=4 / math.sqrt(2 * 20000))


def test_both_ways_are_drawn() -> None:
    prompts, labelers = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    drawn = torch.cat(list(resampled_weights(torch.ones(4), [prompts, labelers], 0, 500)))
    assert drawn.shape == (500, 4)
    # a product of two counts out of two draws each: 0, 1, 2 or 4, and rows times columns sum to 4
    assert set(drawn.unique().tolist()) == {0.0, 1.0, 2.0, 4.0} and set(drawn.sum(1).tolist()) == {4.0}
    again = torch.cat(list(resampled_weights(torch.ones(4), [prompts, labelers], 0, 500)))
    assert torch.equal(drawn, again)


def test_resamples_come_in_portions_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = torch.tensor([0, 0, 1, 2])
    (whole,) = resampled_weights(torch.ones(4), [clusters], 5, 10)
    assert whole.shape == (10, 4)
    for held, rows in ((16, [4, 4, 2]), (3, [1] * 10)):  # a resample is never cut
        monkeypatch.setattr(clustered, "_CHUNK", held)
        portions = list(resampled_weights(torch.ones(4), [clusters], 5, 10))
        assert [len(portion) for portion in portions] == rows
        assert torch.equal(torch.cat(portions), whole)
    monkeypatch.setattr(clustered, "_CHUNK", 5)
    assert [len(portion) for portion in resampled_weights(torch.ones(1), [clusters[:1]], 5, 10)] == [5, 5]


def test_a_thousand_resamples_unless_told() -> None:
    clusters = torch.tensor([0, 1])
    assert sum(len(portion) for portion in resampled_weights(torch.ones(2), [clusters], 0)) == 1000
