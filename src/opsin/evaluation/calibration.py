"""Calibration of probabilities: reliability diagram, expected calibration error, temperature scaling.

`ece` is the mean |confidence - accuracy| over 15 bins of equal width, weighted by the number of images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from opsin.errors import UserError
from opsin.runs.metric_registry import ECE_BINS
from opsin.runs.predictions import softmax
from opsin.runs.result import Calibration

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

TEMPERATURES = (0.05, 20.0)
"""Range of the search for a temperature; the result is the lower end if no image is misclassified."""

LEAST_GAIN = 1e-6
"""Smallest decrease of the cross-entropy, in nats, for which a temperature is worth applying."""

LEAST_IMAGES = 30
"""Smallest number of validation images for which a temperature is fitted: with fewer, chance decides about it."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy of predictions by confidence.

    Attributes:
        edges: Edges of the `ECE_BINS` bins `(B + 1,)`, evenly spaced from 0 to 1. A bin includes its lower edge; the
            last bin includes 1 as well.
        confidence: Mean probability of the predicted class `(B,)`; NaN in a bin without images.
        accuracy: Share of correct predictions `(B,)`; NaN in a bin without images.
        counts: Number of images `(B,)`.
        ece: Expected calibration error: mean absolute difference of confidence and accuracy, weighted by the counts.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]
    ece: float


def reliability(probabilities: Floats, targets: Integers) -> Reliability:
    """Bin images by the probability of their predicted class.

    The metric `ece` of a run is computed by torchmetrics in `opsin.training.metrics`; this function gives the same
    value for saved predictions (`MulticlassCalibrationError`, norm l1).

    Args:
        probabilities: `(N, C)`; each row sums to 1.
        targets: Class indices `(N,)`.

    Raises:
        UserError: There are no images, or the shapes do not match.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2; Naeini et al. 2015.
    """
    _check(probabilities, targets)
    confidences = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, ECE_BINS + 1)
    index = np.clip(np.digitize(confidences, edges) - 1, 0, ECE_BINS - 1)
    counts = np.bincount(index, minlength=ECE_BINS)
    sums = np.bincount(index, confidences, ECE_BINS), np.bincount(index, correct, ECE_BINS)
    empty = np.full(ECE_BINS, np.nan)
    confidence, accuracy = (np.divide(s, counts, out=empty.copy(), where=counts > 0) for s in sums)
    ece = float(np.abs(sums[0] - sums[1]).sum() / len(targets))
    return Reliability(edges, confidence, accuracy, counts, ece)


def negative_log_likelihood(logits: Floats, targets: Integers) -> float:
    """Return the mean cross-entropy in nats of logits `(N, C)` for class indices `(N,)`."""
    _check(logits, targets)
    logs = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-logs[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: Floats, targets: Integers) -> float:
    """Return the temperature T that minimizes the cross-entropy of softmax(logits / T).

    T above 1 means that the network is overconfident, T below 1 that it is underconfident. The predicted classes do
    not change. Fit T on val and evaluate it on test: on the images it was fitted on, the result is too optimistic.

    Args:
        logits: `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        T, within `TEMPERATURES`.

    Raises:
        UserError: There are no images, or the shapes do not match.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    _check(logits, targets)
    wide = logits.astype(np.float64)
    low, high = TEMPERATURES
    # The cross-entropy is convex in 1 / T, so it has a single minimum in log T.
    found = optimize.minimize_scalar(
        lambda log_t: negative_log_likelihood(wide / np.exp(log_t), targets),
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibrate(logits: Floats, targets: Integers) -> Calibration:
    """Return the temperature that a run applies to its predictions, fitted on val; 1 with a reason if none helps.

    Args:
        logits: `(N, C)`; N can be 0.
        targets: Class indices `(N,)`.
    """
    if not len(targets):
        return Calibration(reason="there are no validation images to fit it on")
    if len(targets) < LEAST_IMAGES:
        return Calibration(reason=f"to fit it, at least {LEAST_IMAGES} validation images are needed")
    if not np.isfinite(logits).all():
        return Calibration(reason="the logits of validation images are not finite")
    if (logits.argmax(axis=1) == targets).all():  # the cross-entropy falls with the temperature down to 0
        return Calibration(reason="all validation images are classified correctly, so the fit has no minimum")
    temperature = fit_temperature(logits, targets)
    if np.abs(np.log(temperature / np.array(TEMPERATURES))).min() < 1e-3:
        return Calibration(reason="the fit on the validation images has no minimum")
    nll = tuple(negative_log_likelihood(logits / value, targets) for value in (1.0, temperature))
    if nll[0] - nll[1] < LEAST_GAIN:
        return Calibration(reason="no temperature fits the validation images better")
    return Calibration(temperature, None, len(targets), nll)


def temperature_scaled(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Return the probabilities `(N, C)` of logits `(N, C)` divided by a temperature.

    Raises:
        UserError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"temperature must be above 0, got {temperature}")
    return softmax(logits, temperature)


def _check(scores: Floats, targets: Integers) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise UserError(f"scores and targets must have shapes (N, C) and (N,), got {scores.shape} and {targets.shape}")
    if not len(targets):
        raise UserError("calibration needs at least one image, but there are no images")
