"""Significance of a difference in accuracy: the paired tests, the choice of p, its adjustment, and the rule.

For one run of each recipe, p is McNemar's exact test on the same images. For several runs, it is Student's t over the
runs, paired if they have the same seeds (`difference_over_runs`). p is adjusted for the number of comparisons
(`adjusted_by_holm`). `is_significant` compares it with `LEVEL` and, for several runs, also asks that the interval of
the bootstrap over images (`bootstrap_difference`) excludes 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.errors import UserError
from opsin.evaluation.confidence_intervals import CONFIDENCE, Interval

LEVEL = 0.05
"""Significance level: a difference is significant if its adjusted p is below this level."""

RESAMPLES = 5_000
"""Number of resamples of the bootstrap."""

Values = NDArray[np.generic]


@dataclass(frozen=True)
class McNemarResult:
    """Result of McNemar's test of two networks on the same images.

    Attributes:
        both: Number of images that both networks classify correctly.
        only_a: Number of images that only A classifies correctly.
        only_b: Number of images that only B classifies correctly.
        neither: Number of images that both networks misclassify.
        p: Two-sided exact p: the probability of a split of `only_a + only_b` at least as uneven as this one if both
            networks are equally accurate.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def accuracy_a(self) -> float:
        """Accuracy of A."""
        return (self.both + self.only_a) / self.images

    @property
    def accuracy_b(self) -> float:
        """Accuracy of B."""
        return (self.both + self.only_b) / self.images


@dataclass(frozen=True)
class CorrectPair:
    """Whether two networks classify the same images correctly.

    Attributes:
        images: Digest of the images; equal for pairs of the same images.
        a: Whether A classifies each image correctly, `(N,)`.
        b: The same for B, in the same order.
    """

    images: str
    a: NDArray[np.bool_]
    b: NDArray[np.bool_]


@dataclass(frozen=True)
class AccuracyDifference:
    """Accuracy of recipe A minus accuracy of recipe B, measured with one pair of runs or several.

    Attributes:
        images: Number of images; images of different splits count separately.
        accuracy: Accuracy of A and of B, averaged over the pairs.
        tests: McNemar's test of each pair.
        over_images: The difference with its interval by the paired bootstrap over images. It holds for these networks.
        over_runs: The difference with its interval by Student's t over runs. It holds for the recipes. None for one
            pair.
        p: Two-sided p before adjustment (`difference_over_runs`).
    """

    images: int
    accuracy: tuple[float, float]
    tests: tuple[McNemarResult, ...]
    over_images: Interval
    over_runs: Interval | None
    p: float


def accuracy_difference(pairs: Sequence[CorrectPair], paired: bool) -> AccuracyDifference:
    """Compare two recipes by pairs of runs.

    An image that several runs classify is one observation, the mean over the runs, not one observation per run.

    Args:
        pairs: One run of each recipe, on the same images; at least one pair.
        paired: Whether the runs of a pair have the same seed.
    """
    tests = tuple(mcnemar(pair.a, pair.b) for pair in pairs)
    same: dict[str, list[CorrectPair]] = {}
    for pair in pairs:
        same.setdefault(pair.images, []).append(pair)
    a = np.concatenate([np.mean([pair.a for pair in group], axis=0) for group in same.values()])
    b = np.concatenate([np.mean([pair.b for pair in group], axis=0) for group in same.values()])
    over_runs, p = difference_over_runs(tests, paired)
    accuracy = (float(a.mean()), float(b.mean()))
    return AccuracyDifference(len(a), accuracy, tests, bootstrap_difference(a, b), over_runs, p)


def is_significant(p_adjusted: float, runs: int, over_images: Interval) -> bool:
    """Return whether a difference is larger than chance explains.

    Args:
        p_adjusted: p, adjusted for the number of comparisons.
        runs: Number of pairs of runs.
        over_images: The difference with its interval over images (`bootstrap_difference`).
    """
    return p_adjusted < LEVEL and (runs == 1 or excludes_zero(over_images))


def excludes_zero(interval: Interval) -> bool:
    """Return whether 0 is outside the interval."""
    return interval.low > 0 or interval.high < 0


def adjusted_by_holm(p: Sequence[float], comparisons: int) -> list[float]:
    """Return the values of p, adjusted for the number of comparisons by Holm's step-down method.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.

    Args:
        p: The values of p that are of interest.
        comparisons: Number of comparisons from which they come, at least their own number.
    """
    least = 0.0
    adjusted = [1.0] * len(p)
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (comparisons - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def difference_over_runs(tests: Sequence[McNemarResult], paired: bool) -> tuple[Interval | None, float]:
    """Return the accuracy of A minus that of B over runs with its 95 % interval, and two-sided p before adjustment.

    For a single pair of runs there is no interval, and p is the one of McNemar's exact test.

    Args:
        tests: The test of each pair of runs, at least one.
        paired: Whether the runs of a pair have the same seed.
    """
    if len(tests) == 1:
        return None, tests[0].p
    a, b = (np.array([getattr(test, name) for test in tests]) for name in ("accuracy_a", "accuracy_b"))
    return t_test(a, b, paired, 1 / tests[0].images)


def t_test(a: NDArray[np.float64], b: NDArray[np.float64], paired: bool, image: float) -> tuple[Interval, float]:
    """Return the mean of a minus the mean of b with its 95 % interval, and p, by the paired or Welch's t test.

    Two seeds can have exactly the same difference by chance, so the standard deviation is at least that of one image.

    Args:
        a: Accuracy of each run `(N,)`.
        b: Accuracy of each run `(N,)`.
        paired: Whether `a[i]` and `b[i]` have the same seed.
        image: Change of the accuracy by one image: 1 / number of images.
    """
    count, mean = len(a), float(a.mean() - b.mean())
    if paired:
        variance, freedom = max(float((a - b).var(ddof=1)), image**2) / count, count - 1.0
    else:
        parts = [max(float(values.var(ddof=1)), image**2) / count for values in (a, b)]
        variance = sum(parts)
        freedom = variance**2 / sum(part**2 / (count - 1) for part in parts)
    error = math.sqrt(variance)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(mean, mean - margin, mean + margin), float(2 * stats.t.sf(abs(mean) / error, freedom))


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> McNemarResult:
    """Test by McNemar's exact test whether two networks differ in accuracy on the same images.

    Args:
        correct_a: Whether A classifies each image correctly, `(N,)`.
        correct_b: Whether B classifies each image correctly, `(N,)`, in the same order.

    Raises:
        UserError: The numbers of images differ.

    Source: McNemar 1947, doi:10.1007/BF02295996; exact: Fagerland, Lydersen and Laake 2013,
        doi:10.1186/1471-2288-13-91.
    """
    _check(correct_a, correct_b)
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    smaller, discordant = min(only_a, only_b), only_a + only_b
    p = min(1.0, 2 * float(stats.binom.cdf(smaller, discordant, 0.5)))
    return McNemarResult(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()), p)


def bootstrap_difference(a: Values, b: Values) -> Interval:
    """Return the mean of A minus the mean of B on the same images, with the interval of the paired bootstrap.

    Images are resampled with replacement, the same ones for both networks, so the difficulty of an image cancels out.

    Args:
        a: Value of A for each image, `(N,)`: whether the prediction is correct, or its loss.
        b: Values of B for the same images in the same order.

    Returns:
        Mean of A minus mean of B on all images, and the interval of confidence `CONFIDENCE`.

    Raises:
        UserError: The numbers of images differ or are 0.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    _check(a, b)
    if not len(a):
        raise UserError("the bootstrap needs at least one image")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    resampled = _resampled_means(differences, np.random.default_rng(0))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def _resampled_means(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return the means `(RESAMPLES,)` of values `(N,)` resampled with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 16:  # correct or not: only the number of draws of each distinct value matters
        draws = generator.multinomial(len(values), counts / len(values), size=RESAMPLES)
        return draws @ distinct / len(values)
    means: NDArray[np.float64] = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        means[i] = values[generator.integers(len(values), size=len(values))].mean()
    return means


def _check(a: Values, b: Values) -> None:
    if len(a) != len(b):
        raise UserError(f"a paired test needs the same images for both networks; A has {len(a)}, B has {len(b)}")
