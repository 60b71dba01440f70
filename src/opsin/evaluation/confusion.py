"""Confusion matrix, most confused pairs of classes, most confident errors, and the table of metrics per class."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.evaluation.confidence_intervals import Interval, accuracy_interval
from opsin.runs.per_class import class_scores
from opsin.runs.predictions import Predictions


class ConfusedPair(NamedTuple):
    """Images of one class that are classified as another.

    Attributes:
        true: Index of the true class.
        predicted: Index of the predicted class.
        images: Number of images.
    """

    true: int
    predicted: int
    images: int


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class.

    Attributes:
        name: Name of the class.
        count: Number of images of the class.
        predicted: Number of images classified as this class, correctly or not.
        precision: Share of these that belong to the class, with its 95 % interval; NaN if there are none.
        recall: Share of the class's images classified correctly, with its 95 % interval; NaN if there are none.
        f1: Harmonic mean of both, 2 correct / (count + predicted); NaN if the class neither occurs nor is predicted.
    """

    name: str
    count: int
    predicted: int
    precision: Interval
    recall: Interval
    f1: float


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Return the number of images by true class (rows) and predicted class (columns), `(C, C)`."""
    classes = len(predictions.classes)
    pairs = predictions.targets * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def most_confident_errors(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """Return the misclassified images with the highest confidence, highest first.

    Returns:
        At most `count` row indices of the predictions: `paths[row]` is the origin of the image, and `positions[row]`
        its position in the split.
    """
    wrong = np.flatnonzero(~predictions.correct)
    confidence = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def confused_pairs(predictions: Predictions, count: int) -> list[ConfusedPair]:
    """Return at most `count` ordered pairs of true and predicted class, the most frequent confusions first."""
    matrix = confusion_matrix(predictions)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    found = (ConfusedPair(*divmod(int(cell), len(matrix)), int(matrix.flat[cell])) for cell in order)
    return [pair for pair in found if pair.images]


def class_table(predictions: Predictions) -> list[ClassRow]:
    """Return the scores of every class, in the order of the classes, with Wilson's intervals at 95 %."""
    matrix = confusion_matrix(predictions)
    return [
        ClassRow(
            scores.name,
            scores.count,
            scores.predicted,
            accuracy_interval(correct, scores.predicted),
            accuracy_interval(correct, scores.count),
            math.nan if scores.f1 is None else scores.f1,
        )
        for correct, scores in zip(matrix.diagonal().tolist(), class_scores(matrix, predictions.classes), strict=True)
    ]
