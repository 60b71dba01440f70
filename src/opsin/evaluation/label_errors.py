"""Find label errors by confident learning, with out-of-sample probabilities."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

FOLDS = 5
"""Number of folds: each training image is predicted by a classifier fitted on the other four fifths."""

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


class LabelIssues(NamedTuple):
    """Images whose labels are probably wrong, most suspicious first.

    Attributes:
        positions: Rows of the images `(K,)`.
        scores: Probability of the given label minus the highest probability of another class `(K,)`, in [-1, 1];
            lower is more suspicious.
        suggested: Suggested class of each image `(K,)`.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float64]
    suggested: NDArray[np.int64]


def find_label_issues(probabilities: Floats, targets: Integers) -> LabelIssues:
    """Find labels that are probably wrong, by confident learning.

    Each class has a threshold: its mean probability over the images with this label. A class is confident for an image
    if its probability is at least the threshold. A threshold per class corrects for over- and underconfidence. A label
    is suspicious if the most probable of the confident classes is another class.

    Args:
        probabilities: `(N, C)`, from a network that was not trained on these images: on val or test, or from
            `out_of_fold_probabilities`. On its training images, a network reproduces the wrong labels that it has
            learned.
        targets: Given labels `(N,)`.

    Raises:
        UserError: The shapes do not match.

    Source: Northcutt, Jiang and Chuang 2021, arXiv:1911.00068, section 3.1 (confident joint, off-diagonals); ranked
        by normalized margin, section 3.2.
    """
    if probabilities.ndim != 2 or targets.shape != probabilities.shape[:1]:
        raise UserError(
            f"probabilities and targets must have shapes (N, C) and (N,), got {probabilities.shape} and {targets.shape}"
        )
    rows, classes = np.arange(len(targets)), probabilities.shape[1]
    given = probabilities[rows, targets].astype(np.float64)
    counts, sums = np.bincount(targets, minlength=classes), np.bincount(targets, given, classes)
    thresholds = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suspects = np.flatnonzero((confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != targets))
    others = probabilities[suspects].astype(np.float64)
    others[np.arange(len(suspects)), targets[suspects]] = -1
    margins = given[suspects] - others.max(axis=1)
    order = np.argsort(margins, kind="stable")
    return LabelIssues(suspects[order], margins[order], confident[suspects[order]].argmax(axis=1))


def out_of_fold_probabilities(embeddings: Floats, targets: Integers) -> NDArray[np.float64]:
    """Return out-of-sample probabilities of images by a cross-validated logistic regression on their embeddings.

    This makes `find_label_issues` applicable to training images.

    Args:
        embeddings: `(N, D)`, from a network that was not trained on these labels, such as one with ImageNet weights.
        targets: Class indices `(N,)`.

    Returns:
        `(N, C)`, where C is the largest label plus one; a class without images has probability 0.

    Raises:
        UserError: There is only one class, or a class has fewer than `FOLDS` images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    occurring, counts = np.unique(targets, return_counts=True)
    if len(occurring) < 2:
        raise UserError("label errors need images of at least two classes")
    if counts.min() < FOLDS:
        raise UserError(f"the smallest class has {counts.min()} images, fewer than the {FOLDS} folds")
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    found = cross_val_predict(regression, embeddings, targets, cv=splitter, method="predict_proba")
    rows = np.zeros((len(targets), int(occurring[-1]) + 1))
    rows[:, occurring] = found
    return rows
