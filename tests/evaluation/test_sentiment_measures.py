"""Measures of a two-class model, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score

from instructgpt.errors import DataError
from instructgpt.evaluation.sentiment.measures import METRICS, figures, scores


def test_by_hand_over_two_seeds() -> None:
    labels = np.array([1.0, 1.0, 0.0, 0.0])
    probabilities = np.array([[0.9, 0.4, 0.2, 0.6], [0.9, 0.8, 0.2, 0.1]])
    found = figures(labels, probabilities)
    # seed 0 says 1 0 0 1: 1 hit of 2 said and 2 true; seed 1 says 1 1 0 0: all right
    assert found["accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["precision"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["recall"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["f1"] == pytest.approx((0.5 + 1.0) / 2)
    nats = -np.log([0.9, 0.4, 0.8, 0.4, 0.9, 0.8, 0.8, 0.9])
    assert found["loss"] == pytest.approx(nats.mean())


def test_no_prediction_of_the_class_is_precision_0() -> None:
    found = figures(np.array([1.0, 0.0]), np.array([[0.1, 0.5]]))  # 0.5 is no prediction of it
    assert (found["precision"], found["recall"], found["f1"], found["accuracy"]) == (0.0, 0.0, 0.0, 0.5)


def test_certainty_of_the_wrong_label_costs_much_and_not_everything() -> None:
    found = figures(np.array([1.0, 0.0]), np.array([[0.0, 0.0]]))
    assert found["loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999)), min_size=1, max_size=30))
def test_as_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    labels = np.array([float(label) for label, _ in rows])
    p = np.array([value for _, value in rows])
    found, said = figures(labels, p[None]), (p > 0.5).astype(float)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, said))
    assert found["precision"] == pytest.approx(precision_score(labels, said, zero_division=0))
    assert found["recall"] == pytest.approx(recall_score(labels, said, zero_division=0))
    assert found["f1"] == pytest.approx(f1_score(labels, said, zero_division=0))
    assert found["loss"] == pytest.approx(log_loss(labels, p, labels=[0.0, 1.0]))


def test_metrics_read_the_columns_of_records() -> None:
    records = [scores(1, np.array([0.9, 0.4])), scores(0, np.array([0.2, 0.1]))]
    columns = {key: np.array([record[key] for record in records]) for key in records[0]}
    values = {metric.name: metric.combine(columns) for metric in METRICS if metric.combine}
    assert values == figures(np.array([1.0, 0.0]), np.array([[0.9, 0.2], [0.4, 0.1]]))
    assert [metric.name for metric in METRICS] == ["accuracy", "precision", "recall", "f1", "loss"]


@pytest.mark.parametrize("shape", [(3,), (1, 4), (0, 3)])
def test_probabilities_must_go_with_the_labels(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="3 labels do not go with"):
        figures(np.ones(3), np.full(shape, 0.5))
