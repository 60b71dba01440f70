"""Fit scikit-learn classifiers on embeddings: fitted on train, hyperparameter selected on val."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Targets = NDArray[np.int64]
HeadName = Literal["logistic_regression", "knn"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Candidates for C; ties take the first, which regularizes most."""

NEIGHBORS = (20, 10, 5, 1, 50)
"""Candidates for k; ties take the first; 20 is the value of the literature."""

_ITERATIONS = 5_000


@dataclass(frozen=True)
class LinearProbe:
    """A classifier on embeddings.

    Attributes:
        name: The kind of classifier.
        parameters: The hyperparameter selected on val.
        tried: Validation accuracy of every candidate, by its name.
        model: The scikit-learn estimator.
    """

    name: HeadName
    parameters: dict[str, float]
    tried: dict[str, float]
    model: Any

    def accuracy(self, vectors: Vectors, targets: Targets) -> float:
        """Return the fraction of embeddings `(N, D)` that are classified correctly."""
        return float(np.mean(self.model.predict(vectors.astype(np.float64)) == targets))

    def coefficients(self) -> dict[str, NDArray[np.float64]]:
        """Return the coefficients for raw embeddings: logits are `embeddings @ coefficients.T + intercept`.

        The standardization is included. Shapes are `(C, D)` and `(C,)`, or `(1, D)` and `(1,)` for the second of two
        classes. Empty for nearest neighbors.
        """
        if self.name == "knn":
            return {}
        scaler, regression = self.model[0], self.model[1]
        coefficients = regression.coef_ / scaler.scale_
        return {"coefficients": coefficients, "intercept": regression.intercept_ - coefficients @ scaler.mean_}


def fit_head(name: HeadName, train: tuple[Vectors, Targets], val: tuple[Vectors, Targets]) -> LinearProbe:
    """Fit a classifier on train for each candidate value and select the best on val.

    Logistic regression standardizes each dimension by train and selects the inverse regularization `C`. Nearest
    neighbors vote with equal weights, the nearest `k` by cosine similarity.

    Args:
        name: The kind of classifier.
        train: Embeddings `(N, D)` and targets `(N,)`.
        val: Embeddings and targets of the validation subset.
    """
    key, values = ("C", STRENGTHS) if name == "logistic_regression" else ("k", NEIGHBORS)
    fitted = []
    for value in values:
        if name == "knn" and value > len(train[0]):
            continue
        model = _estimator(name, value).fit(train[0].astype(np.float64), train[1])
        fitted.append((value, LinearProbe(name, {key: value}, {}, model)))
    tried = {f"{key}={value:g}": head.accuracy(*val) for value, head in fitted}
    best = fitted[int(np.argmax(list(tried.values())))][1]  # the first of equals
    return LinearProbe(name, best.parameters, tried, best.model)


def _estimator(name: HeadName, value: float) -> Any:
    # Imported here: scikit-learn takes 1.5 seconds to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "knn":
        return KNeighborsClassifier(n_neighbors=int(value), metric="cosine", algorithm="brute")
    return make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=_ITERATIONS))
