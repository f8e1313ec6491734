"""Baselines with accuracies counted by hand."""

import sys

import pytest

from instructgpt.data.records import Prompt, RankedResponse, Ranking
from instructgpt.reward_model.baselines import bag_of_words, longer_wins, shorter_wins, text_accuracy


def ranking(*replies: tuple[str, int]) -> Ranking:
    return Ranking(Prompt.of("q"), tuple(RankedResponse(text, rank) for text, rank in replies))


def test_length_rules_by_hand() -> None:
    """Pairs: (aaa > b) longer, (aaa > cccc) shorter, (b > cccc) shorter; (dd > ee) equal length: one half.

    Longer wins 1 + 0.5 of 4 pairs; the tie (b, f) of the last ranking makes no pair.
    """
    rankings = [
        ranking(("aaa", 1), ("b", 2), ("cccc", 3)),
        ranking(("dd", 1), ("ee", 2)),
        ranking(("b", 1), ("f", 1)),
    ]
    assert longer_wins(rankings) == pytest.approx(1.5 / 4)
    assert shorter_wins(rankings) == pytest.approx(2.5 / 4)


def test_any_score_of_a_text() -> None:
    rankings = [ranking(("b!", 1), ("a", 2)), ranking(("a", 1), ("c!", 2))]
    assert text_accuracy(rankings, lambda text: text.count("!")) == 0.5
    assert text_accuracy([], len) == 0.5


def test_bag_of_words_finds_the_words_that_win_in_both_scripts() -> None:
    train = [ranking((f"please {n}", 1), (f"never {n}", 2)) for n in range(6)]
    train += [ranking((f"请{n}", 1), (f"不{n}", 2)) for n in range(6)]
    unseen = [ranking(("never say so", 2), ("say so please", 1)), ranking(("我请你", 1), ("不是", 2))]
    assert bag_of_words(train, unseen) == 1.0
    turned = [ranking(("please", 2), ("never", 1))]
    assert bag_of_words(train, turned) == 0.0


def test_bag_of_words_without_anything_to_learn_is_a_coin() -> None:
    """Unknown words score 0 on both sides; one pair, no pair or no repeated word teaches nothing."""
    pair = ranking(("a", 1), ("b", 2))
    train = [ranking(("x y", 1), ("x z", 2)), ranking(("x z", 1), ("x y", 2))]
    assert bag_of_words(train, [pair]) == 0.5
    assert bag_of_words([], [pair]) == 0.5
    assert bag_of_words([pair], [pair]) == 0.5
    assert bag_of_words([ranking(("a", 1), ("b", 1))], [pair]) == 0.5


def test_bag_of_words_without_scikit_learn_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    assert bag_of_words([ranking(("a", 1), ("b", 2))], [ranking(("a", 1), ("b", 2))]) is None
