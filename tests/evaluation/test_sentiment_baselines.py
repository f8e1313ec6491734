"""The baselines of the sentiment experiment: scikit-learn's own cross-validation, and what is learned."""

import random

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from instructgpt.errors import ConfigError
from instructgpt.evaluation.sentiment import tfidf
from instructgpt.evaluation.sentiment.lstm import Classifier, LSTMSettings, Sequences, train_lstm
from instructgpt.evaluation.sentiment.reviews import Review

GOOD, BAD = ["fine", "lovely", "warm", "clever"], ["dull", "cold", "clumsy", "empty"]
PLAIN = ["the", "film", "was", "and", "with", "actors", "plot", "music"]


def reviews(count: int, seed: int, films: int = 12) -> list[Review]:
    """Texts that mostly, not always, use the words of their label."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        label = i % 2
        own, other = (GOOD, BAD) if label else (BAD, GOOD)
        words = [draw.choice(PLAIN) for _ in range(8)] + draw.choices([*own * 4, *other], k=3)
        draw.shuffle(words)
        made.append(Review(f"{seed}-{i}", " ".join(words), label, f"film {draw.randrange(films)}"))
    return made


def test_c_is_chosen_as_scikit_learns_cross_validation_would() -> None:
    train, test = reviews(80, 1), reviews(20, 2)
    fitted = tfidf.fit(train, test)
    texts, labels = [r.text for r in train], np.array([r.label for r in train])
    pattern = r"\w+(?:'\w+)?|[!?]"

    def pipeline(cost: float) -> Pipeline:
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=pattern)
        return make_pipeline(words, LogisticRegression(C=cost, solver="liblinear", max_iter=1000))

    losses = {}
    for cost in tfidf.COSTS:
        found = cross_val_predict(
            pipeline(cost),
            texts,
            labels,
            groups=[r.movie for r in train],
            cv=StratifiedGroupKFold(n_splits=5),
            method="predict_proba",
        )
        losses[f"{cost:g}"] = log_loss(labels, found[:, 1])
    assert fitted.by_cost == pytest.approx(losses, rel=1e-6)
    assert f"{fitted.cost:g}" == min(losses, key=lambda cost: losses[cost])
    whole = pipeline(fitted.cost).fit(texts, labels)
    assert fitted.probabilities == pytest.approx(whole.predict_proba([r.text for r in test])[:, 1])


def test_too_few_reviews_to_choose_on() -> None:
    one_film = [Review(str(i), "fine film" if i % 2 else "dull film", i % 2, "one") for i in range(8)]
    with pytest.raises(ConfigError, match="8 reviews of 1 films are too few"):
        tfidf.fit(one_film, one_film)


SMALL = LSTMSettings(width=16, hidden=16, batch=8, lr=1e-2, epochs=3)


def sequences(count: int, seed: int) -> Sequences:
    """Ids 2-5 say 1, ids 6-9 say 0, ids 10-29 say nothing."""
    draw = random.Random(seed)
    ids, labels = [], []
    for i in range(count):
        label = i % 2
        words = draw.choices(range(2, 6) if label else range(6, 10), k=2)
        ids.append(words + draw.choices(range(10, 30), k=draw.randrange(1, 9)))
        draw.shuffle(ids[-1])
        labels.append(float(label))
    return Sequences(ids, np.array(labels))


def test_it_learns_and_the_held_out_loss_chooses_the_epoch() -> None:
    parts = sequences(120, 1), sequences(30, 2), sequences(40, 3)
    trained = train_lstm(*parts, seed=0, settings=SMALL)
    assert ((trained.probabilities > 0.5) == (parts[2].labels == 1)).mean() > 0.9
    valid = [row["valid_loss"] for row in trained.curve]
    assert len(valid) == 3 and trained.epoch == 1 + valid.index(min(valid))
    kept = trained.curve[trained.epoch - 1]["test_loss"]
    assert kept == pytest.approx(log_loss(parts[2].labels, trained.probabilities), abs=1e-5)


def test_the_seed_decides_all_and_the_callers_draws_go_on() -> None:
    parts = sequences(24, 1), sequences(8, 2), sequences(8, 3)
    settings = LSTMSettings(width=8, hidden=8, epochs=1)
    torch.manual_seed(5)
    first = train_lstm(*parts, seed=0, settings=settings)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert np.array_equal(first.probabilities, train_lstm(*parts, seed=0, settings=settings).probabilities)
    assert not np.allclose(first.probabilities, train_lstm(*parts, seed=1, settings=settings).probabilities)


def test_without_held_out_reviews_the_last_epoch_is_kept() -> None:
    nothing = Sequences([], np.zeros(0))
    settings = LSTMSettings(width=8, hidden=8, epochs=3)
    assert train_lstm(sequences(16, 1), nothing, sequences(4, 2), 0, settings).epoch == 3


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    model = Classifier(30, LSTMSettings(width=8, hidden=8)).eval()
    alone = model(torch.tensor([[5, 6, 7]]), torch.tensor([3]))
    beside = model(torch.tensor([[5, 6, 7, 9, 9], [1, 2, 3, 4, 5]]), torch.tensor([3, 5]))
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def test_a_review_of_unseen_tokens_is_judged_too() -> None:
    test = Sequences([[900, 901], []], np.array([0.0, 1.0]))
    settings = LSTMSettings(width=8, hidden=8, epochs=1)
    found = train_lstm(sequences(16, 1), sequences(4, 2), test, 0, settings)
    assert found.probabilities.shape == (2,) and np.isfinite(found.probabilities).all()
    assert 0 < found.vocabulary <= 28
