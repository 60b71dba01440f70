"""Paired tests of two networks on the same images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.errors import UserError
from opsin.evaluation.confidence_intervals import Interval

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
        mid_p: The same with half the probability of the observed split: less conservative, and its error rate is close
            to the level in practice.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    mid_p: float


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> McNemarResult:
    """Test by McNemar's exact test whether two networks differ in accuracy on the same images.

    Args:
        correct_a: Whether A classifies each image correctly, `(N,)`.
        correct_b: Whether B classifies each image correctly, `(N,)`, in the same order.

    Raises:
        UserError: The numbers of images differ.

    Source: McNemar 1947, doi:10.1007/BF02295996; exact and mid-p: Fagerland, Lydersen and Laake 2013,
        doi:10.1186/1471-2288-13-91.
    """
    _check(correct_a, correct_b)
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    smaller, discordant = min(only_a, only_b), only_a + only_b
    tail = float(stats.binom.cdf(smaller, discordant, 0.5))
    observed = float(stats.binom.pmf(smaller, discordant, 0.5))
    p, mid_p = min(1.0, 2 * tail), min(1.0, 2 * tail - observed)
    return McNemarResult(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()), p, mid_p)


def bootstrap_difference(
    a: Values,
    b: Values,
    metric: Callable[[Values], float] | None = None,
    *,
    resamples: int = 5_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the metric of B minus the metric of A on the same images, with the interval of the paired bootstrap.

    Images are resampled with replacement, the same ones for both networks, so the difficulty of an image cancels out.

    Args:
        a: Values of A for each image, `(N, ...)`: whether the prediction is correct, or its loss; for a custom metric
            any columns, such as targets and predictions.
        b: Values of B for the same images in the same order.
        metric: Function of the resampled rows; None takes their mean.
        resamples: Number of resamples.
        confidence: Share of the resampled differences within the interval; both tails are equal.
        seed: Seed of the resampling.

    Returns:
        Metric of B minus metric of A on all images, and the interval.

    Raises:
        UserError: The numbers of images differ or are 0, `resamples` is below 1, or `confidence` is not in (0, 1).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    _check(a, b)
    if not len(a) or resamples < 1 or not 0 < confidence < 1:
        raise UserError(
            f"the bootstrap needs at least one image, at least one resample and a confidence in (0, 1), got {len(a)} "
            f"images, resamples={resamples}, confidence={confidence}"
        )
    generator = np.random.default_rng(seed)
    if metric is None:
        differences = np.asarray(b, np.float64) - np.asarray(a, np.float64)
        estimate, resampled = float(differences.mean()), _resampled_means(differences, resamples, generator)
    else:
        estimate = metric(b) - metric(a)
        rows = (generator.integers(len(a), size=len(a)) for _ in range(resamples))
        resampled = np.array([metric(b[chosen]) - metric(a[chosen]) for chosen in rows])
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def _resampled_means(
    values: NDArray[np.float64], resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return the means `(resamples,)` of values `(N,)` resampled with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 16:  # correct or not: only the number of draws of each distinct value matters
        draws = generator.multinomial(len(values), counts / len(values), size=resamples)
        return draws @ distinct / len(values)
    means: NDArray[np.float64] = np.empty(resamples)
    for i in range(resamples):
        means[i] = values[generator.integers(len(values), size=len(values))].mean()
    return means


def _check(a: Values, b: Values) -> None:
    if len(a) != len(b):
        raise UserError(f"a paired test needs the same images for both networks; A has {len(a)}, B has {len(b)}")
