"""Precision, recall and F1 of each class: the one definition, for metrics, results and reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: Name of the class.
        count: Number of images of this class.
        predicted: Number of images predicted as this class.
        precision: Share of the predicted images that belong to the class; None if no image is predicted as it.
        recall: Share of the images of the class that are predicted as it; None if it has no images.
        f1: Harmonic mean of precision and recall, `2 hits / (count + predicted)`; None if both counts are zero.
    """

    name: str
    count: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[ClassScores]:
    """Return the scores of each class.

    Args:
        confusion: Number of images `(C, C)` by true class (rows) and predicted class (columns).
        classes: Names of the C classes.
    """
    hits, counts, predicted = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return [
        ClassScores(name, count, taken, _ratio(hit, taken), _ratio(hit, count), _ratio(2 * hit, count + taken))
        for name, hit, count, taken in zip(classes, hits, counts, predicted, strict=True)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
