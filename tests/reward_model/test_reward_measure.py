"""Accuracy broken down and calibration of scores, counted by hand."""

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from instructgpt.data.records import Prompt, RankedResponse, Ranking
from instructgpt.maths.calibration import best_temperature
from instructgpt.reward_model.figure import FILE, write_reliability
from instructgpt.reward_model.measure import Pairs, calibration_of, measure
from instructgpt.reward_model.members import disagreement_of
from instructgpt.reward_model.table import accuracy_table

SVG = "{http://www.w3.org/2000/svg}"


def ranking(prompt: str, replies: list[tuple[str, int]], category: str | None = None) -> Ranking:
    return Ranking(
        Prompt.of(prompt, category=category), tuple(RankedResponse(text, rank) for text, rank in replies)
    )


# Three prompts, 6 + 1 + 1 pairs. Ranks 1, 3, 7, 9 are four levels.
RANKINGS = [
    ranking("p", [("aaaa", 1), ("bb", 3), ("cccc", 7), ("d" * 9, 9)], "chat"),
    ranking("q", [("xx", 2), ("xxxx", 1)], "rewrite"),
    ranking("r", [("", 1), ("", 2), ("s", 2)], "chat"),
]
# p: right order but for (bb, cccc), which tie. q: wrong. r: right against "", wrong against "s".
SCORES = torch.tensor([3.0, 1.0, 1.0, 0.0, 2.0, 1.0, 0.5, 0.0, 1.5])


def rows(found: list[dict[str, Any]]) -> dict[str, tuple[int, int, float]]:
    return {row["name"]: (row["pairs"], row["prompts"], row["accuracy"]) for row in found}


def test_rows_by_hand() -> None:
    found = measure(SCORES, RANKINGS, seed=0)
    # Distance 1: p's (1,3) right, (3,7) tie, (7,9) right; q wrong; r right and wrong: 3.5 of 6.
    assert rows(found["by_rank_distance"]) == {
        "1": (6, 3, 3.5 / 6),
        "2": (2, 1, 1.0),
        "3": (1, 1, 1.0),
    }
    # Lengths of p: 4 2 4 9. Better / worse: 4/2 right, 4/4 right, 4/9 right, 2/4 tie, 2/9 right, 4/9 right;
    # q: 4/2 wrong; r: 0/0 right, 0/1 wrong.
    assert rows(found["by_length_difference"]) == {
        "below 1/2": (4, 2, 3 / 4),
        "1/2 to 4/5": (1, 1, 0.5),
        "equal": (2, 2, 1.0),
        "5/4 to 2": (2, 2, 0.5),
    }
    assert rows(found["by_length_sign"]) == {
        "better is shorter": (5, 2, 3.5 / 5),
        "equally long": (2, 2, 1.0),
        "better is longer": (2, 2, 0.5),
    }
    assert rows(found["by_category"]) == {"chat": (8, 2, 6.5 / 8), "rewrite": (1, 1, 0.0)}
    low, high = found["accuracy_interval"]
    assert 0.0 <= low < 6.5 / 9 < high <= 1.0


def test_two_labelers_of_one_prompt_are_one_prompt() -> None:
    twice = [RANKINGS[0], RANKINGS[0]]
    found = measure(SCORES[:4].repeat(2), twice, seed=0)
    assert found["by_category"][0]["prompts"] == 1
    # one prompt drawn again is itself: 5.5 of 6
    assert found["accuracy_interval"] == pytest.approx([5.5 / 6, 5.5 / 6])


def test_far_distances_are_one_row_and_no_category_is_no_table() -> None:
    found = measure(torch.arange(9, 0, -1.0), [ranking("p", [("a", k) for k in range(1, 10)])], seed=0)
    # nine levels: 8 pairs at distance 1, ..., 4 at 5; 3 + 2 + 1 at 6 to 8
    pairs = {name: count for name, (count, _, _) in rows(found["by_rank_distance"]).items()}
    assert pairs == {"1": 8, "2": 7, "3": 6, "4": 5, "5": 4, "6 or more": 6}
    assert found["by_category"] == []


def test_calibration_is_of_the_margins() -> None:
    found = measure(SCORES, RANKINGS, seed=0)["calibration"]
    margins = [2.0, 2, 3, 0, 1, 1, -1, 0.5, -1]
    confidences = [1 / (1 + math.exp(-abs(m))) for m in margins]
    assert found["confidence"] == pytest.approx(sum(confidences) / 9)
    assert found["nll"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in margins) / 9)
    assert found["temperature"] == best_temperature(torch.tensor(margins)) and found["temperature"] > 0
    assert found["nll_at_temperature"] < found["nll"]
    # sigmoid of 0, 0.5, 1, 2, 3: 0.5, 0.62, 0.73, 0.88, 0.95 in tenths of [0.5, 1]
    counts = {round(row["from"], 2): row["pairs"] for row in found["bins"] if row["pairs"]}
    assert counts == {0.5: 1, 0.6: 1, 0.7: 4, 0.85: 2, 0.95: 1}
    assert [row["accuracy"] for row in found["bins"] if row["pairs"] == 4] == [0.5]


def test_the_curve_is_drawn_where_it_is(tmp_path: Path) -> None:
    """Each bin with pairs is a point; across and up are linear, the same for the points and the diagonal."""
    found = calibration_of(torch.tensor([0.2, -0.2, 3.0, 3.0, 3.0, -3.0]))
    write_reliability(tmp_path, found)
    tree = ElementTree.fromstring((tmp_path / FILE).read_text(encoding="utf-8"))
    points = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in tree.iter(f"{SVG}circle")]
    assert len(points) == 2
    diagonal = next(line for line in tree.iter(f"{SVG}line") if line.get("stroke-dasharray"))
    x1, y1, x2, y2 = (float(diagonal.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
    for (x, y), margin, share in zip(points, (0.2, 3.0), (0.5, 0.75), strict=True):
        confidence = 1 / (1 + math.exp(-margin))
        assert x == pytest.approx(x1 + (x2 - x1) * (confidence - 0.5) / 0.5, abs=0.1)
        assert y == pytest.approx(y1 + (y2 - y1) * (share - 0.5) / 0.5, abs=0.1)
    counts = [text.text for text in tree.iter(f"{SVG}text") if text.get("font-size") == "9"]
    assert counts == ["2", "4"]


def test_without_a_pair_there_is_nothing() -> None:
    tied = [ranking("p", [("a", 1), ("b", 1)])]
    for found in (measure(torch.tensor([]), [], seed=0), measure(torch.tensor([1.0, 2.0]), tied, seed=0)):
        assert found["calibration"] is None and found["by_rank_distance"] == []
    assert Pairs.of([]).better.shape == (0,)
    assert disagreement_of(torch.zeros(2, 0), [], seed=0) is None


def test_disagreement_by_hand() -> None:
    """Three members on two prompts of two replies and one of three; zeros of their own do not count."""
    rankings = [
        ranking("p", [("a", 1), ("b", 2)]),
        ranking("q", [("a", 1), ("b", 2)]),
        ranking("r", [("a", 1), ("b", 2)]),
    ]
    # margins: p 1 1 1, q 1 0 -1, r -1 -1 -4
    each = torch.tensor(
        [[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], [6.0, 5.0, 5.0, 5.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 0.0, 4.0]]
    )
    found = disagreement_of(each, rankings, seed=0)
    assert found is not None
    # standard deviations: 0, sqrt(2/3), and of (-1, -1, -4) about -2: sqrt(6/3)
    assert found["pairs"] == pytest.approx((math.sqrt(2 / 3) + math.sqrt(2)) / 3)
    assert rows(found["by_tertile"]) == {
        "lowest third": (1, 1, 1.0),
        "middle third": (1, 1, 0.5),
        "highest third": (1, 1, 0.0),
    }
    # q's mean is 0: the one member that gives 0 agrees with it
    assert rows(found["by_votes"]) == {"1 of 3": (1, 1, 0.5), "3 of 3": (2, 2, 0.5)}


def test_the_table_shows_every_row_and_the_verdict() -> None:
    found = measure(SCORES, RANKINGS, seed=0)
    summary = {
        **found,
        "pairs": 9,
        "accuracy": 6.5 / 9,
        "longer_wins": 0.25,
        "shorter_wins": 0.75,
        "bag_of_words": None,
    }
    text = accuracy_table(summary)
    for shown in ("0.722", "longer wins", "shorter wins", "better is longer", "5/4 to 2", "rewrite", "ECE"):
        assert shown in text
    assert "bag of words" not in text
    for temperature, verdict in ((1.2, "over-confident"), (0.8, "under-confident"), (0.99, "as sure as")):
        summary["calibration"] = {**found["calibration"], "temperature": temperature}
        assert f"best temperature {temperature:.2f} ({verdict}" in accuracy_table(summary)
    summary["calibration"]["temperature"] = None
    assert "no temperature is best" in accuracy_table(summary)
    assert accuracy_table({"pairs": 0}) == ""
