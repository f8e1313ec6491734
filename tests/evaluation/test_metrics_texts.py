"""Metrics of longer texts: against sacrebleu, rouge-score and scipy, and by hand."""

import math

import numpy as np
import pytest

from instructgpt.evaluation.metrics.pass_at_k import pass_at_k
from instructgpt.evaluation.metrics.rank_correlation import ranks, spearman
from instructgpt.evaluation.metrics.repetition import distinct, ends_in_loop, repetition, words
from instructgpt.evaluation.metrics.rouge import rouge
from instructgpt.evaluation.metrics.translation import bleu, bleu_statistics, chrf, chrf_statistics, corpus

HYPOTHESES = [
    "The cat sat on the mat, didn't it?",
    "A dog runs fast.",
    "",
    "Hello",
    "Prices rose by 3.5% in May 2019 -- again.",
]
REFERENCES = [
    "The cat is sitting on the mat, isn't it?",
    "A dog is running quickly.",
    "Nothing was said.",
    "Hello there, world",
    "In May 2019 prices rose by 3.5% once more.",
]
CHINESE = (["我今天很高兴。", "他去了 Beijing"], ["我今天非常高兴。", "他昨天去了 Beijing"])


def sums(hypotheses: list[str], references: list[str], tokenizer: str) -> float:
    pairs = zip(hypotheses, references, strict=True)
    return corpus(bleu, [bleu_statistics(h, [r], tokenizer) for h, r in pairs])


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu of the extra eval is not installed")
    assert sums(HYPOTHESES, REFERENCES, "13a") == pytest.approx(
        sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score, abs=1e-9
    )
    assert sums(*CHINESE, "zh") == pytest.approx(
        sacrebleu.corpus_bleu(CHINESE[0], [CHINESE[1]], tokenize="zh").score, abs=1e-9
    )
    # no 4-gram of one word: smoothing decides, and agrees
    assert sums(["Hello"], ["Hello there"], "13a") == pytest.approx(
        sacrebleu.corpus_bleu(["Hello"], [["Hello there"]]).score, abs=1e-9
    )


@pytest.mark.parametrize("pair", [(HYPOTHESES, REFERENCES), CHINESE, (["a"], ["bcd"]), ([""], ["a"])])
def test_chrf_is_sacrebleus(pair: tuple[list[str], list[str]]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu of the extra eval is not installed")
    found = corpus(chrf, [chrf_statistics(h, r) for h, r in zip(*pair, strict=True)])
    assert found == pytest.approx(sacrebleu.corpus_chrf(pair[0], [pair[1]]).score, abs=1e-9)


def test_chrf_by_hand() -> None:
    # "ab" against "abc": unigrams 2 of 2 and of 3, bigrams 1 of 1 and of 2; P 1, R (2/3 + 1/2) / 2 = 7/12
    expected = 100 * 5 * (7 / 12) / (4 + 7 / 12)
    assert corpus(chrf, [chrf_statistics("a b", "abc")]) == pytest.approx(expected)


def test_rouge_by_hand() -> None:
    pytest.importorskip("rouge_score", reason="rouge-score of the extra eval is not installed")
    found = rouge("the cats sat", "the cat was sitting|quietly")
    # stemmed: the cat sat | the cat was sit quietli; shared 2 of 3 and of 5, bigrams 1 of 2 and of 4
    assert found["rouge1"] == pytest.approx(0.5)
    assert found["rouge2"] == pytest.approx(1 / 3)
    assert found["rougeL"] == pytest.approx(0.5)
    assert rouge("", "x") == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_repetition_by_hand() -> None:
    assert words("Don't stop, 北京 OK_2") == ["don", "t", "stop", "北", "京", "ok", "2"]
    # a b a b a b: 4-grams abab, baba, abab
    assert repetition("a b a b a b") == pytest.approx(1 / 3)
    assert repetition("a b c") == 0
    # of two texts 5 words, 3 of them different; 3 pairs, 3 different ("b a" spans no two texts)
    assert distinct(["a b", "a b c"], 1) == pytest.approx(3 / 5)
    assert distinct(["a b", "a b c"], 2) == pytest.approx(2 / 3)
    assert distinct([], 2) == 0


def test_loops() -> None:
    assert ends_in_loop("he said yes. Yes, yes")
    assert ends_in_loop("start " + "one two three " * 3)
    assert not ends_in_loop("one two three one two three")
    assert not ends_in_loop("no no no, and then more")
    assert not ends_in_loop("")


def test_spearman_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy of the extra eval is not installed")
    x, y = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0], [2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 2.0]
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert ranks([10.0, 30.0, 10.0, 20.0]).tolist() == [1.5, 4.0, 1.5, 3.0]
    assert spearman([1.0, 2.0, 3.0], [-1.0, -2.0, -9.0]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1.0, 1.0], [1.0, 2.0]))


def test_pass_at_k_is_a_share_of_draws() -> None:
    # of 4 programs 1 is right: 3 of the 6 pairs hold it
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert [pass_at_k(4, c, 1) for c in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert pass_at_k(4, 3, 2) == 1
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


def test_corpus_sums_before_it_divides() -> None:
    columns = [{"x": 1.0, "n": 2.0}, {"x": 3.0, "n": 4.0}]
    assert corpus(lambda c: float(np.sum(c["x"]) / np.sum(c["n"])), columns) == pytest.approx(4 / 6)
