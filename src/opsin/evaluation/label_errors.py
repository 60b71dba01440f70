"""Labels in doubt: images that the network, not having learned from them, takes with confidence for another class."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


class LabelIssues(NamedTuple):
    """Images whose labels are in doubt, the most doubtful first.

    Attributes:
        positions: Their rows `(K,)`.
        scores: Probability of the given label minus that of the likeliest other class `(K,)`, in [-1, 1]: the less,
            the more doubtful.
        suggested: The class that each is taken for instead `(K,)`.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    suggested: NDArray[np.int64]


def find_label_issues(probabilities: Floats, targets: Integers) -> LabelIssues:
    """Find labels that are likely wrong, by confident learning.

    A class is confidently present where its probability reaches the mean of that class over the images that carry its
    label: classes that the network is shy or bold about are judged by their own measure. An image is in doubt where
    the likeliest of the classes that are confidently present is not its label.

    Args:
        probabilities: `(N, C)`, of a network that has not learned from these images: on val or test, or by
            `out_of_fold_probabilities`. Of images that it has learned from it repeats the labels, wrong ones too.
        targets: Labels as given `(N,)`.

    Raises:
        UserError: The shapes do not fit.

    Source: Northcutt, Jiang and Chuang 2021, arXiv:1911.00068, section 3.1 (confident joint, off-diagonals); ranked
        by normalised margin, section 3.2.
    """
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1]:
        raise UserError(
            f"probabilities {probabilities.shape} and targets {targets.shape}: they must be (N, C) and (N,)"
        )
    rows, classes = np.arange(len(targets)), probabilities.shape[1]
    given = probabilities[rows, targets].astype(np.float64)
    counts, sums = np.bincount(targets, minlength=classes), np.bincount(targets, given, classes)
    thresholds = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    present = np.where(probabilities >= thresholds, probabilities, -1.0)
    doubtful = np.flatnonzero((present.max(axis=1) >= 0) & (present.argmax(axis=1) != targets))
    others = probabilities[doubtful].astype(np.float64)
    others[np.arange(len(doubtful)), targets[doubtful]] = -1
    margins = given[doubtful] - others.max(axis=1)
    order = np.argsort(margins, kind="stable")
    return LabelIssues(doubtful[order], margins[order], present[doubtful[order]].argmax(axis=1))


def out_of_fold_probabilities(
    embeddings: Floats, targets: Integers, *, folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Probabilities of images by a logistic regression that has not learned from them: so train labels can be doubted.

    Args:
        embeddings: `(N, D)`, of a network that has not learned from these labels, such as one with ImageNet weights.
        targets: Class indices `(N,)`.
        folds: Into how many parts the images are divided; each is predicted by what the others teach.
        seed: Of the division.

    Returns:
        `(N, C)` with C the largest label plus one; a class without images has probability 0.

    Raises:
        UserError: A class has fewer images than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    occurring, counts = np.unique(targets, return_counts=True)
    if len(occurring) < 2 or counts.min() < folds:
        raise UserError(
            f"folds={folds}, and the smallest of {len(occurring)} classes has {counts.min() if len(counts) else 0} "
            "images: each of at least two classes needs one image per fold"
        )
    division = StratifiedKFold(folds, shuffle=True, random_state=seed)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    found = cross_val_predict(regression, embeddings, targets, cv=division, method="predict_proba")
    rows = np.zeros((len(targets), int(occurring[-1]) + 1))
    rows[:, occurring] = found
    return rows
