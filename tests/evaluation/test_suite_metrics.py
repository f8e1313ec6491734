"""From records to numbers with intervals: by hand, in closed form, and paired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from instructgpt.errors import DataError
from instructgpt.evaluation.suite.metrics import columns, difference, estimate
from instructgpt.evaluation.suite.task import Array, Metric


def records(values: list[float | None], groups: list[str] | None = None) -> list[dict[str, Any]]:
    named = groups or [""] * len(values)
    return [
        {"id": str(n), "group": group, "scores": {} if value is None else {"x": value}}
        for n, (value, group) in enumerate(zip(values, named, strict=True))
    ]


def ratio(found: Mapping[str, Array]) -> float:
    return float(np.nansum(found["x"]) / np.sum(~np.isnan(found["x"])))


MEAN, RATIO = Metric("x"), Metric("y", combine=ratio)


def test_columns_have_gaps() -> None:
    found = columns([{"scores": {"a": 1}}, {"scores": {"b": 2.5}}])
    assert found["a"][0] == 1 and math.isnan(found["a"][1]) and found["b"][1] == 2.5


@pytest.mark.parametrize("metric", [MEAN, RATIO])
def test_a_mean_with_its_interval(metric: Metric) -> None:
    """400 items, 100 right: a mean of 1/4, standard error sqrt(3/16/400)."""
    found = estimate(metric, records([1.0, 0.0, 0.0, 0.0] * 100))
    error = math.sqrt(3 / 16 / 400)
    assert found.mean == 0.25 and found.n == 400
    assert found.low == pytest.approx(0.25 - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(0.25 + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize("metric", [MEAN, RATIO])
def test_items_of_a_group_are_drawn_together(metric: Metric) -> None:
    """Groups of four equal items carry what one item would: the interval is twice as wide."""
    values = [float(n % 4 == 0) for n in range(100) for _ in range(4)]
    grouped = estimate(metric, records(values, [f"g{n}" for n in range(100) for _ in range(4)]))
    apart = estimate(metric, records(values))
    assert (grouped.high - grouped.low) / (apart.high - apart.low) == pytest.approx(2.0, rel=0.12)


def test_items_without_the_number_are_left_out() -> None:
    assert estimate(MEAN, records([1.0, None, 0.0, None])).mean == 0.5
    assert math.isnan(estimate(MEAN, records([None, None])).mean)
    bare = estimate(Metric("x", interval=False), records([1.0, 0.0]))
    assert bare.mean == 0.5 and math.isnan(bare.low) and math.isnan(bare.high)
    with pytest.raises(DataError, match="nothing to take a mean of"):
        estimate(MEAN, [])


@pytest.mark.parametrize("metric", [MEAN, RATIO])
def test_a_difference_is_paired(metric: Metric) -> None:
    """Items differ much, the models by exactly 0.25 on each: paired, the difference is certain."""
    theirs = [float(n) for n in range(64)]
    ours = records([value + 0.25 for value in theirs])
    found = difference(metric, ours, list(reversed(records(theirs))))
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25), abs=1e-9)
    assert found.n == 64
    with pytest.raises(DataError, match="'63' is on one side only"):
        difference(metric, ours, records(theirs[:-1]))
    with pytest.raises(DataError, match="63 beside 64"):
        difference(metric, ours[:-1], records(theirs))


def test_the_same_seed_gives_the_same_interval() -> None:
    data = records([float(n % 3) for n in range(30)])
    assert estimate(MEAN, data, seed=1) == estimate(MEAN, data, seed=1) != estimate(MEAN, data, seed=2)
