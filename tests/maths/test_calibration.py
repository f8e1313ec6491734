"""calibration.py and resampling.py by hand, against closed forms and against a slow loop."""

import math

import pytest
import torch

from instructgpt.maths import resampling
from instructgpt.maths.calibration import best_temperature, expected_calibration_error, pair_nll, reliability
from instructgpt.maths.ranking import untied_pairs
from instructgpt.maths.resampling import ratio_intervals


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# Confidences 0.6, 0.6, 0.6, 0.9, 0.9, of which right: yes, yes, no, yes, no.
MARGINS = torch.tensor([logit(0.6), logit(0.6), -logit(0.6), logit(0.9), -logit(0.9)], dtype=torch.float64)


def test_reliability_by_hand() -> None:
    # Five bins of width 0.1: [0.5, 0.6), [0.6, 0.7), ... ; 0.6 + 1e-9 keeps rounding from choosing the bin.
    curve = reliability(MARGINS * (1 + 1e-9), bins=5)
    assert curve.counts.tolist() == [0, 3, 0, 0, 2]
    assert curve.confidence[[1, 4]].tolist() == pytest.approx([0.6, 0.9], abs=1e-8)
    assert curve.accuracy[[1, 4]].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert curve.confidence[[0, 2, 3]].isnan().all() and curve.accuracy[[0, 2, 3]].isnan().all()
    # 3/5 * |0.6 - 2/3| + 2/5 * |0.9 - 0.5| = 0.04 + 0.16
    assert expected_calibration_error(curve) == pytest.approx(0.2, abs=1e-8)


def test_the_ends_of_the_scale() -> None:
    """A margin of 0 is confidence 0.5 and half right; a huge one is confidence 1, in the last bin."""
    curve = reliability(torch.tensor([0.0, 80.0, -80.0]), bins=10)
    assert curve.counts.tolist() == [1] + [0] * 8 + [2]
    assert curve.accuracy[[0, 9]].tolist() == [0.5, 0.5]
    assert curve.confidence[[0, 9]].tolist() == [0.5, 1.0]


def test_nll_by_hand() -> None:
    # -log 0.75 and -log 0.25; halving the margin ln 3 gives sigmoid = sqrt(3) / (1 + sqrt(3))
    margins = torch.tensor([math.log(3), -math.log(3)])
    assert pair_nll(margins) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    half = math.sqrt(3) / (1 + math.sqrt(3))
    assert pair_nll(margins, 2.0) == pytest.approx(-(math.log(half) + math.log(1 - half)) / 2)


@pytest.mark.parametrize(("right", "margin"), [(8, 3.0), (9, 1.0), (6, 0.01), (7, 40.0)])
def test_the_best_temperature_of_equal_margins_is_known(right: int, margin: float) -> None:
    """`right` of 10 pairs right, all of one confidence: the best probability is right / 10."""
    margins = torch.tensor([margin] * right + [-margin] * (10 - right), dtype=torch.float64)
    assert best_temperature(margins) == pytest.approx(margin / logit(right / 10), rel=1e-9)


def test_the_best_temperature_of_scaled_truth_is_the_scale() -> None:
    """Pairs in exactly the shares that sigmoid(m) says, margins three times too large: T is 3."""
    margins = []
    for share in (0.6, 0.7, 0.9):
        count = round(100 * share)
        margins += [3 * logit(share)] * count + [-3 * logit(share)] * (100 - count)
    found = best_temperature(torch.tensor(margins, dtype=torch.float64))
    assert found == pytest.approx(3.0, rel=1e-9)


def test_no_temperature_is_best() -> None:
    assert best_temperature(torch.tensor([1.0, 2.0])) is None  # all right: T -> 0
    assert best_temperature(torch.tensor([1.0, -1.0])) is None  # no better than a coin: T -> infinity
    assert best_temperature(torch.tensor([0.5, -1.0])) is None
    assert best_temperature(torch.tensor([])) is None


def test_untied_pairs_against_a_loop() -> None:
    ranks, counts = [2, 1, 2, 3, 1, 1, 1, 3, 2], [4, 2, 3]
    expected, start = [], 0
    for prompt, count in enumerate(counts):
        places = range(start, start + count)
        expected += [(i, j, prompt) for i in places for j in places if ranks[i] < ranks[j]]
        start += count
    found = untied_pairs(torch.tensor(ranks), counts)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
    assert [part.shape for part in untied_pairs(torch.tensor([], dtype=torch.int64), [])] == [(0,)] * 3


def test_the_interval_of_single_pairs_is_the_binomials() -> None:
    """600 prompts of one pair, 60 % right: mean 0.6, standard error sqrt(0.24 / 600) = 0.02."""
    right = torch.tensor([1.0] * 360 + [0.0] * 240)[:, None]
    low, high = ratio_intervals(right, torch.ones(600, 1), seed=3, draws=4000).flatten().tolist()
    assert low == pytest.approx(0.6 - 1.96 * 0.02, abs=0.003)
    assert high == pytest.approx(0.6 + 1.96 * 0.02, abs=0.003)


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    """Each prompt all right or all wrong in 36 pairs: no narrower than with one pair a prompt."""
    right = torch.tensor([1.0] * 60 + [0.0] * 40)[:, None]
    pairs = torch.ones(100, 1)
    one = ratio_intervals(right, pairs, seed=0)
    many = ratio_intervals(36 * right, 36 * pairs, seed=0)
    torch.testing.assert_close(one, many)
    assert (one[1] - one[0]).item() > 0.15  # 2 * 1.96 * sqrt(0.24 / 100) = 0.19


def test_columns_share_their_draws_and_an_empty_one_has_no_interval() -> None:
    right = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    pairs = torch.tensor([[1.0, 2.0, 0.0]]).repeat(3, 1)
    found = ratio_intervals(right, pairs, seed=1)
    assert torch.equal(found[:, 0], found[:, 1]) and found[:, 2].isnan().all()


def test_every_prompt_is_drawn_and_a_single_resample_is_both_ends() -> None:
    """Prompts worth 1, 10 and 100: a resample's sum tells how often each was drawn, of three draws."""
    worth = torch.tensor([[1.0], [10.0], [100.0]])
    seen = [ratio_intervals(worth, torch.full((3, 1), 1 / 3), seed, draws=1) for seed in range(60)]
    assert all(low == high for low, high in seen)
    sums = {round(float(low)) for low, _ in seen}
    # a prompt has its chance 2/3 to be absent three times: all ten combinations come in 60 draws
    assert sums == {a + 10 * b + 100 * (3 - a - b) for a in range(4) for b in range(4 - a)}


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    tops, bottoms = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64)
    whole = ratio_intervals(tops, bottoms, seed=4, draws=50)
    for held in (15, 4):  # three resamples at a time, or one
        monkeypatch.setattr(resampling, "_CHUNK", held)
        assert torch.allclose(ratio_intervals(tops, bottoms, seed=4, draws=50), whole, rtol=1e-12, atol=0)
