"""Axes and lines of the report's interval plots."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructgpt.evaluation.suite_report.tracks import axis, interval, nice_step, number, track

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))


def test_steps_are_round() -> None:
    steps = [nice_step(rough) for rough in (0.021, 0.1, 0.3, 1.0, 1.1, 70.0)]
    assert steps == pytest.approx([0.05, 0.1, 0.5, 1.0, 2.0, 100.0])


def test_an_axis_by_hand() -> None:
    where = axis([0.0, 1.0])  # 8 % of room at each end: -0.08 to 1.08, step 0.5
    assert (where.low, where.high) == pytest.approx((-0.08, 1.08))
    assert [text for _, text in where.ticks] == ["0.0", "0.5", "1.0"]
    assert [place for place, _ in where.ticks] == pytest.approx([6.9, 50.0, 93.1], abs=0.01)
    assert where.place(0.5) == 50.0 and where.place(9.0) == 100.0 and where.zero is None


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.booleans())
def test_all_values_have_a_place_in_order(values: list[float], zero: bool) -> None:
    where = axis(values, zero)
    places = [where.place(value) for value in sorted(values)]
    assert places == sorted(places) and places[0] >= 0 and places[-1] <= 100
    assert all(-0.01 <= place <= 100.01 for place, _ in where.ticks) and 1 <= len(where.ticks) <= 11
    assert where.zero == (50.0 if zero else None) and (not zero or where.low == -where.high < 0)


def test_nothing_finite_still_has_an_axis() -> None:
    where = axis([math.nan, None])
    line = track(where, "ppo_ptx", {"value": math.nan, "low": None, "high": math.nan}, "–")
    assert (line["name"], line["dot"], line["bar"]) == ("PPO-ptx", None, None)


def test_a_line_has_its_interval() -> None:
    line = track(axis([0.0, 1.0]), "sft", {"value": 0.5, "low": 0.0, "high": 1.0}, "", "better")
    start, width = line["bar"]
    assert (line["dot"], start, start + width) == (
        50.0,
        pytest.approx(6.9, abs=0.01),
        pytest.approx(93.1, abs=0.02),
    )
    assert line["verdict"] == "better"


def test_figures_as_people_read_them() -> None:
    assert number(0.12345) == "0.123" and number(0.12345, sign=True) == "+0.123"
    assert number(35.678, "points") == "35.68" and number(1234.5, "bits") == "1234"
    assert number(None) == "–" == number(math.nan)
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.500 [0.400, 0.600]"
    assert interval({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert interval({"value": -0.5, "low": -1.0, "high": 0.25}, sign=True) == "-0.500 [-1.000, +0.250]"
