"""Whether probabilities mean what they say: reliability, calibration error, and a temperature that mends most of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from opsin.errors import UserError

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

TEMPERATURES = (0.05, 20.0)
"""Where a temperature is looked for; the lower end is reached where no image at all is told wrongly."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of about one confidence are right.

    Attributes:
        edges: Of the bins `(B + 1,)`, evenly from 0 to 1; a bin holds its lower edge, the last one 1 too.
        confidence: Mean probability of the predicted class `(B,)`; NaN in a bin without images.
        accuracy: Share of right predictions `(B,)`; NaN likewise.
        counts: Images `(B,)`.
        ece: Expected calibration error: mean gap of confidence and accuracy, bins weighed by their images.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]
    ece: float


def reliability(probabilities: Floats, targets: Integers, bins: int = 15) -> Reliability:
    """Bin images by the probability of their predicted class.

    The error is torchmetrics' `MulticlassCalibrationError` (norm l1), but for images whose probability is 1 to the
    last bit: there they form a bin of their own, here they are in the last.

    Args:
        probabilities: `(N, C)`, rows add up to 1.
        targets: Class indices `(N,)`.
        bins: B.

    Raises:
        UserError: There are no images, or the shapes do not fit.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2; Naeini et al. 2015.
    """
    _check(probabilities, targets)
    if bins < 1:
        raise UserError(f"bins={bins}: at least one is needed; 15 is customary")
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(confidences, edges) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, confidences, bins), np.bincount(place, right, bins)
    empty = np.full(bins, np.nan)
    confidence, accuracy = (np.divide(s, counts, out=empty.copy(), where=counts > 0) for s in sums)
    ece = float(np.abs(sums[0] - sums[1]).sum() / len(targets))
    return Reliability(edges, confidence, accuracy, counts, ece)


def negative_log_likelihood(logits: Floats, targets: Integers) -> float:
    """Mean cross-entropy in nats of logits `(N, C)` on class indices `(N,)`."""
    _check(logits, targets)
    logs = special.log_softmax(logits.astype(np.float64), axis=1)
    return float(-logs[np.arange(len(targets)), targets].mean())


def fit_temperature(logits: Floats, targets: Integers) -> float:
    """The temperature T for which softmax(logits / T) has the least cross-entropy.

    Above 1 the network was too sure of itself, below 1 not sure enough; what it predicts stays the same. Fit it on
    val and judge it on test: fitted on the images that it is judged by, it flatters.

    Args:
        logits: `(N, C)`.
        targets: Class indices `(N,)`.

    Returns:
        T, within `TEMPERATURES`.

    Raises:
        UserError: There are no images, or the shapes do not fit.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    _check(logits, targets)
    wide = logits.astype(np.float64)
    low, high = TEMPERATURES
    # Convex in 1 / T, and so without a second valley in log T.
    found = optimize.minimize_scalar(
        lambda log_t: negative_log_likelihood(wide / np.exp(log_t), targets),
        bounds=(np.log(low), np.log(high)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def temperature_scaled(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Probabilities `(N, C)` of logits `(N, C)` at a temperature; 1 leaves them as they are.

    Raises:
        UserError: The temperature is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"temperature={temperature}: it must be above 0")
    rows: NDArray[np.float64] = special.softmax(logits.astype(np.float64) / temperature, axis=1)
    return rows


def _check(scores: Floats, targets: Integers) -> None:
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise UserError(f"scores {scores.shape} and targets {targets.shape}: they must be (N, C) and (N,)")
    if not len(targets):
        raise UserError("there are no images: calibration needs at least one")
