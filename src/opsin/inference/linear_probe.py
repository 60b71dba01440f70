"""Classifiers of scikit-learn on embeddings: fitted on train, their one parameter chosen on val."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Targets = NDArray[np.int64]
HeadName = Literal["logistic_regression", "knn"]

HEADS: tuple[HeadName, ...] = get_args(HeadName)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C to choose from; of equally good ones the first, which regularises most."""
NEIGHBOURS = (20, 10, 5, 1, 50)
"""Counts of neighbours to choose from; of equally good ones the first: 20 is what the literature reports."""
_ITERATIONS = 5_000


@dataclass(frozen=True)
class FittedHead:
    """A classifier on embeddings.

    Attributes:
        name: Which.
        parameters: What was chosen on val.
        tried: Accuracy on val of every value of the parameter, by its name.
        model: scikit-learn's estimator.
    """

    name: HeadName
    parameters: dict[str, float]
    tried: dict[str, float]
    model: Any

    def accuracy(self, vectors: Vectors, targets: Targets) -> float:
        """The share of embeddings `(N, D)` that are told rightly."""
        return float(np.mean(self.model.predict(vectors.astype(np.float64)) == targets))

    def coefficients(self) -> dict[str, NDArray[np.float64]]:
        """What gives the logits of raw embeddings, `embeddings @ coefficients.T + intercept`; empty for neighbours.

        The standardisation is folded in. `(C, D)` and `(C,)`; `(1, D)` and `(1,)` where there are two classes, for
        the second of them.
        """
        if self.name == "knn":
            return {}
        scaler, regression = self.model[0], self.model[1]
        coefficients = regression.coef_ / scaler.scale_
        return {"coefficients": coefficients, "intercept": regression.intercept_ - coefficients @ scaler.mean_}


def fit_head(name: HeadName, train: tuple[Vectors, Targets], val: tuple[Vectors, Targets]) -> FittedHead:
    """Fit a classifier on train, for each value of its parameter, and keep the best on val.

    Logistic regression sees each dimension standardised by train, and chooses its inverse regularisation `C`;
    the neighbours vote alike, the nearest `k` by cosine.

    Args:
        name: Which.
        train: Embeddings `(N, D)` and targets `(N,)`.
        val: Likewise.
    """
    key, values = ("C", STRENGTHS) if name == "logistic_regression" else ("k", NEIGHBOURS)
    fitted = []
    for value in values:
        if name == "knn" and value > len(train[0]):
            continue
        model = _estimator(name, value).fit(train[0].astype(np.float64), train[1])
        fitted.append((value, FittedHead(name, {key: value}, {}, model)))
    tried = {f"{key}={value:g}": head.accuracy(*val) for value, head in fitted}
    best = fitted[int(np.argmax(list(tried.values())))][1]  # the first of equals
    return FittedHead(name, best.parameters, tried, best.model)


def _estimator(name: HeadName, value: float) -> Any:
    # Imported here: a second and a half that only those pay who fit a head.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if name == "knn":
        return KNeighborsClassifier(n_neighbors=int(value), metric="cosine", algorithm="brute")
    return make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=_ITERATIONS))
