"""How sure a share or a mean is: intervals that say what a handful of images or seeds cannot tell."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.errors import UserError


class Interval(NamedTuple):
    """An estimate and the interval around it.

    Attributes:
        estimate: What was measured.
        low: The interval's lower end.
        high: Its upper end.
    """

    estimate: float
    low: float
    high: float


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share and its interval by Wilson's score: within [0, 1] and sound for few trials and for shares of 0 and 1.

    Args:
        successes: How often it happened.
        trials: Of how many; for 0 the estimate is NaN and the interval [0, 1]: nothing is known.
        confidence: How often such intervals hold the true share.

    Raises:
        UserError: More successes than trials, or a confidence that is none.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286.
    """
    _check(confidence)
    if not 0 <= successes <= trials:
        raise UserError(f"{successes} successes of {trials} trials: there cannot be more successes than trials")
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    found = stats.binomtest(int(successes), int(trials)).proportion_ci(confidence, method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def t_interval(values: Sequence[float] | NDArray[np.floating], confidence: float = 0.95) -> Interval:
    """The mean of some runs and its interval by Student's t: for the seeds of one recipe.

    Args:
        values: One number per run, taken as independent and about normal; of a single one the ends are NaN.
        confidence: How often such intervals hold the true mean.

    Raises:
        UserError: There is no value, or a confidence that is none.

    Source: Student 1908, doi:10.1093/biomet/6.1.1.
    """
    _check(confidence)
    numbers = np.asarray(values, np.float64)
    if not len(numbers):
        raise UserError("an interval of no values at all: give at least one")
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean, math.nan, math.nan)
    reach = float(stats.t.ppf((1 + confidence) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Interval(mean, mean - reach, mean + reach)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence} lies outside (0, 1): 0.95 is customary")
