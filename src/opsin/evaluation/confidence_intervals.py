"""Confidence intervals at 95 %, and where each kind is shown.

`accuracy_interval` (Wilson) measures the uncertainty that comes from the random choice of images. It is shown for the
accuracy in the report of a run (`evaluation/report/result_summary.py`), and for precision and recall of each class
(`evaluation/confusion.py`).

`interval_over_runs` (Student's t) measures the variation between the runs of one recipe. It is shown for each metric of
the leaderboard (`evaluation/comparison/leaderboard.py`) as `98.12 ± 0.31 %` with `Interval.margin`
(`evaluation/comparison/columns.py`). For a single run the leaderboard shows no interval.

Intervals of a difference between two recipes are in `evaluation/significance.py`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.errors import UserError

CONFIDENCE = 0.95
"""Confidence level of all intervals that Opsin shows."""


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        estimate: Measured value.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    estimate: float
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half of the width of the interval; NaN without an interval."""
        return (self.high - self.low) / 2


def accuracy_interval(correct: int, images: int) -> Interval:
    """Return a share of images, such as an accuracy, with its 95 % interval by Wilson's method.

    Args:
        correct: Number of images that are classified correctly.
        images: Number of images; for 0 the estimate is NaN.
    """
    return wilson_interval(correct, images, CONFIDENCE)


def interval_over_runs(values: Sequence[float]) -> Interval:
    """Return the mean of a metric over runs, such as seeds, with its 95 % interval by Student's t.

    Args:
        values: One number per run; for a single one the ends are NaN.
    """
    return t_interval(values, CONFIDENCE)


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Return a proportion with Wilson's score interval, which is valid for few trials and for proportions of 0 and 1.

    Args:
        successes: Number of successes.
        trials: Number of trials; for 0 the estimate is NaN and the interval is [0, 1].
        confidence: Confidence level, such as 0.95.

    Raises:
        UserError: There are more successes than trials, or `confidence` is not in (0, 1).

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286.
    """
    _check(confidence)
    if not 0 <= successes <= trials:
        raise UserError(f"there cannot be more successes than trials, got {successes} of {trials}")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    found = stats.binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def t_interval(values: Sequence[float] | NDArray[np.floating], confidence: float = CONFIDENCE) -> Interval:
    """Return a mean with its interval by Student's t, such as over the seeds of one recipe.

    Args:
        values: One number per run, assumed independent and approximately normal; for a single one the ends are NaN.
        confidence: Confidence level, such as 0.95.

    Raises:
        UserError: There is no value, or `confidence` is not in (0, 1).

    Source: Student 1908, doi:10.1093/biomet/6.1.1.
    """
    _check(confidence)
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        raise UserError("an interval needs at least one value, but there are no values")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, math.nan, math.nan)
    margin = float(stats.t.ppf((1 + confidence) / 2, len(numbers) - 1) * stats.sem(numbers))
    return Interval(mean, mean - margin, mean + margin)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be in (0, 1), got {confidence}; 0.95 is common")
