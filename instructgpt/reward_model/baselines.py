"""What a reward model must beat: rules that look at a reply's length or at its words alone.

Rankings in, accuracies out. An accuracy is the share of untied pairs in which the better-ranked reply scores
higher; equal scores count one half; without a pair it is 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from instructgpt.data.records import Ranking
from instructgpt.maths.ranking import pairwise_accuracy

MAX_PAIRS = 20_000
"""Pairs that the logistic regression is fitted on; more change its accuracy by less than a hundredth."""
_WORDS = (
    r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+|\d+|[^\w\s]"  # a Chinese character, a word, a number, a mark
)


def text_accuracy(rankings: Sequence[Ranking], score: Callable[[str], float]) -> float:
    """Accuracy of any score of a reply's text."""
    replies = [response for ranking in rankings for response in ranking.responses]
    scores = torch.tensor([score(reply.text) for reply in replies], dtype=torch.float64)
    ranks = torch.tensor([reply.rank for reply in replies])
    return pairwise_accuracy(scores, ranks, [len(ranking.responses) for ranking in rankings])[0]


def longer_wins(rankings: Sequence[Ranking]) -> float:
    """Accuracy of preferring the reply with more characters."""
    return text_accuracy(rankings, len)


def shorter_wins(rankings: Sequence[Ranking]) -> float:
    """Accuracy of preferring the reply with fewer characters: 1 - `longer_wins`."""
    return text_accuracy(rankings, lambda text: -len(text))


def bag_of_words(train: Sequence[Ranking], rankings: Sequence[Ranking]) -> float | None:
    """Accuracy on `rankings` of a logistic regression on the words of a pair's replies, fitted on `train`.

    A reply's score is w . (counts of its words); w is fitted so that the sigmoid of the difference of two
    scores predicts which reply was ranked higher (Bradley-Terry). None where scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    better, worse = _pairs(train)
    if not better or not rankings:
        return 0.5
    vectorizer = CountVectorizer(token_pattern=_WORDS, min_df=2)
    try:
        counts = vectorizer.fit_transform(better + worse)
    except ValueError:  # no word occurs twice
        return 0.5
    differences: Any = counts[: len(better)] - counts[len(better) :]
    # Every other pair is turned around: the classifier needs both answers, and without an intercept
    # a pair and its reverse say the same.
    signs = torch.ones(len(better), dtype=torch.int64)
    signs[1::2] = -1
    turned = differences.multiply(signs.numpy()[:, None]).tocsr()
    if len(better) == 1:
        return 0.5
    model = LogisticRegression(fit_intercept=False, C=0.1, max_iter=500)
    model.fit(turned, signs.numpy())
    texts = [response.text for ranking in rankings for response in ranking.responses]
    scores = torch.from_numpy(vectorizer.transform(texts) @ model.coef_[0])
    ranks = torch.tensor([response.rank for ranking in rankings for response in ranking.responses])
    return pairwise_accuracy(scores, ranks, [len(ranking.responses) for ranking in rankings])[0]


def _pairs(rankings: Sequence[Ranking]) -> tuple[list[str], list[str]]:
    """Texts of the better and of the worse reply of up to `MAX_PAIRS` untied pairs, over all prompts."""
    pairs = [
        (one.text, other.text)
        for ranking in rankings
        for one in ranking.responses
        for other in ranking.responses
        if one.rank < other.rank
    ]
    pairs = pairs[:: -(-len(pairs) // MAX_PAIRS)] if pairs else pairs
    return [better for better, _ in pairs], [worse for _, worse in pairs]
