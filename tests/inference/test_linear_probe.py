"""Classifiers on embeddings: the parameter is chosen on val, and written coefficients give the same predictions."""

from typing import get_args

import numpy as np
import pytest

from opsin.inference.linear_probe import NEIGHBORS, STRENGTHS, HeadName, fit_head

CENTERS = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])


def points(count: int, seed: int, noise: float = 1.0, classes: int = 3):
    random = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    vectors = CENTERS[targets] + random.normal(size=(count, 4)) * noise
    return (vectors * [1, 100, 0.01, 1] + [0, 50, 0, -3]).astype(np.float32), targets  # very different scales


@pytest.mark.parametrize("name", get_args(HeadName))
def test_the_first_parameter_with_the_best_val_accuracy_is_chosen(name: HeadName) -> None:
    train, val = points(90, 0, noise=2.5), points(60, 1, noise=2.5)
    head = fit_head(name, train, val)
    values = STRENGTHS if name == "logistic_regression" else NEIGHBORS
    key = "C" if name == "logistic_regression" else "k"
    assert list(head.tried) == [f"{key}={value:g}" for value in values]
    assert len(set(head.tried.values())) > 1
    best = max(head.tried.values())
    assert head.accuracy(*val) == best
    assert head.parameters == {key: next(v for v in values if head.tried[f"{key}={v:g}"] == best)}


def test_logistic_regression_does_not_depend_on_the_scale_of_a_dimension() -> None:
    assert fit_head("logistic_regression", points(90, 0), points(60, 1)).accuracy(*points(60, 2)) > 0.95


@pytest.mark.parametrize("classes", [2, 3])
def test_the_coefficients_are_for_raw_embeddings(classes: int) -> None:
    head = fit_head("logistic_regression", points(90, 0, classes=classes), points(60, 1, classes=classes))
    vectors, _ = points(40, 2, classes=classes)
    found = head.coefficients()
    logits = vectors @ found["coefficients"].T + found["intercept"]
    assert found["coefficients"].shape == (1 if classes == 2 else 3, 4)
    np.testing.assert_allclose(logits.squeeze(), head.model.decision_function(vectors), atol=1e-4)
    said = (logits[:, 0] > 0).astype(int) if classes == 2 else logits.argmax(axis=1)
    np.testing.assert_array_equal(said, head.model.predict(vectors))


def test_neighbors_are_compared_by_direction_and_k_is_at_most_the_number_of_images() -> None:
    vectors, targets = np.array([[1, 0.1], [0.1, 1], [1, 0.2]], np.float32), np.array([0, 1, 0])
    head = fit_head("knn", (vectors, targets), (vectors * 100, targets))
    assert list(head.tried) == ["k=1"]
    assert head.accuracy(np.array([[50, 1], [0.001, 0.1]], np.float32), np.array([0, 1])) == 1.0
    assert head.coefficients() == {}
