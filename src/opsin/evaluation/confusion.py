"""Where a network is wrong: its most confident mistakes, the classes it takes for each other, a table of classes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.evaluation.confidence_intervals import Interval, wilson_interval
from opsin.runs.per_class import class_scores
from opsin.runs.predictions import Predictions


class ConfusedPair(NamedTuple):
    """Images of one class that are taken for another.

    Attributes:
        true: Index of their class.
        predicted: Of the class that they are taken for.
        images: How many.
    """

    true: int
    predicted: int
    images: int


@dataclass(frozen=True)
class ClassRow:
    """How one class fares.

    Attributes:
        name: Of the class.
        count: Images of it.
        predicted: Images that are taken for it, rightly or not.
        precision: Share of those that are right, with its 95 % interval; NaN where none is taken for it.
        recall: Share of its images that are found, likewise; NaN where it has none.
        f1: Harmonic mean of both: 2 hits / (count + predicted); NaN where the class does not occur at all.
    """

    name: str
    count: int
    predicted: int
    precision: Interval
    recall: Interval
    f1: float


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Images by true class (rows) and predicted class (columns), `(C, C)`."""
    classes = len(predictions.classes)
    pairs = predictions.targets * classes + predictions.predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def confident_mistakes(predictions: Predictions, count: int) -> NDArray[np.int64]:
    """The images that are told wrongly with the most confidence, worst first.

    Returns:
        At most `count` rows of the predictions: `paths[row]` is where such an image comes from, and
        `positions[row]` its number in the split.
    """
    wrong = np.flatnonzero(~predictions.correct)
    confidence = predictions.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def confused_pairs(predictions: Predictions, count: int) -> list[ConfusedPair]:
    """The classes that are most often taken for another, in this direction: at most `count`, most frequent first."""
    matrix = confusion_matrix(predictions)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    found = (ConfusedPair(*divmod(int(cell), len(matrix)), int(matrix.flat[cell])) for cell in order)
    return [pair for pair in found if pair.images]


def class_table(predictions: Predictions) -> list[ClassRow]:
    """Return the scores of every class with Wilson's 95 % intervals, in the order of the classes."""
    matrix = confusion_matrix(predictions)
    hits = matrix.diagonal().tolist()
    return [
        ClassRow(
            scores.name,
            scores.count,
            scores.predicted,
            wilson_interval(hit, scores.predicted),
            wilson_interval(hit, scores.count),
            math.nan if scores.f1 is None else scores.f1,
        )
        for hit, scores in zip(hits, class_scores(matrix, predictions.classes), strict=True)
    ]
