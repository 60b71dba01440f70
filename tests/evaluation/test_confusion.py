"""Confusion and class metrics of predictions written by hand."""

import numpy as np
import pytest

from opsin.evaluation.confusion import class_table, confused_pairs, confusion_matrix, most_confident_errors
from opsin.runs.predictions import Predictions


@pytest.fixture
def predictions() -> Predictions:
    """Six images of classes cat (0) and dog (1); class owl (2) neither occurs nor is predicted."""
    logits = np.array([[2, 0, -9], [0, 5, -9], [0, 1, -9], [0, 2, -9], [3, 0, -9], [0, 1, -9]], np.float32)
    targets = np.array([0, 0, 0, 1, 1, 1])
    paths = tuple(f"{i}.png" for i in range(6))
    return Predictions("val", ("cat", "dog", "owl"), logits, targets, np.arange(10, 16), paths, "")


def test_the_most_confident_error_comes_first(predictions: Predictions) -> None:
    assert most_confident_errors(predictions, 9).tolist() == [1, 4, 2]
    assert most_confident_errors(predictions, 1).tolist() == [1]


def test_pairs_have_a_direction(predictions: Predictions) -> None:
    assert confused_pairs(predictions, 9) == [(0, 1, 2), (1, 0, 1)]
    assert confused_pairs(predictions, 1) == [(0, 1, 2)]
    assert confusion_matrix(predictions).tolist() == [[1, 2, 0], [1, 2, 0], [0, 0, 0]]


def test_every_class_has_a_row(predictions: Predictions) -> None:
    cat, dog, owl = class_table(predictions)
    assert (cat.name, cat.count, cat.predicted) == ("cat", 3, 2)
    assert cat.precision.estimate == 0.5
    assert cat.recall.estimate == pytest.approx(1 / 3)
    assert dog.f1 == pytest.approx(2 * 2 / (3 + 4))
    assert cat.recall.low < 1 / 3 < cat.recall.high
    assert owl.count == owl.predicted == 0
    assert np.isnan([owl.f1, owl.recall.estimate, owl.precision.estimate]).all()


def test_table_equals_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    generator = np.random.default_rng(0)
    logits, targets = generator.normal(size=(500, 7)).astype(np.float32), generator.integers(7, size=500)
    names = tuple("abcdefg")
    predictions = Predictions("test", names, logits, targets, np.arange(500), ("",) * 500, "")
    theirs = precision_recall_fscore_support(targets, logits.argmax(1))
    ours = [(row.precision.estimate, row.recall.estimate, row.f1, row.count) for row in class_table(predictions)]
    np.testing.assert_allclose(np.array(ours).T, theirs)
