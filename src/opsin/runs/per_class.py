"""Precision, recall and F1 of each class: the one definition, for metrics, results and reports."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from opsin.runs.result import ClassScores


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
