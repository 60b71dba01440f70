"""Is B better than A? Paired tests of two networks on the same images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from opsin.errors import UserError
from opsin.evaluation.confidence_intervals import Interval, t_interval

__all__ = ["Comparison", "bootstrap_difference", "mcnemar", "t_interval"]

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same images.

    Attributes:
        both: Images that both tell rightly.
        only_a: That A alone does.
        only_b: That B alone does.
        neither: That none does.
        p: Two-sided exact p of McNemar's test: how often as lopsided a split of `only_a + only_b`, or more, comes
            up where both are equally good.
        mid_p: The same, counting the split that came up by half: keeps its level too in practice and sees more.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float
    mid_p: float


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> Comparison:
    """McNemar's test: whether one of two networks tells more of the same images rightly than chance explains.

    Args:
        correct_a: Whether A tells each image rightly, `(N,)`.
        correct_b: Whether B does, of the same images in the same order.

    Raises:
        UserError: The numbers of images differ.

    Source: McNemar 1947, doi:10.1007/BF02295996; exact and mid-p: Fagerland, Lydersen and Laake 2013,
        doi:10.1186/1471-2288-13-91.
    """
    _check(correct_a, correct_b)
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    less, differing = min(only_a, only_b), only_a + only_b
    tail = float(stats.binom.cdf(less, differing, 0.5))
    came_up = float(stats.binom.pmf(less, differing, 0.5))
    p, mid_p = min(1.0, 2 * tail), min(1.0, 2 * tail - came_up)
    return Comparison(int((a & b).sum()), only_a, only_b, int((~a & ~b).sum()), p, mid_p)


def bootstrap_difference(
    a: Values,
    b: Values,
    metric: Callable[[Values], float] | None = None,
    *,
    resamples: int = 5_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """By how much a metric of B exceeds that of A on the same images, with its interval by the paired bootstrap.

    Images are drawn anew with replacement, the same for both, so what makes an image hard for either cancels out.

    Args:
        a: What is known of A for each image, `(N, ...)`: whether it is right, its loss; for a metric of one's own
            whatever that takes, such as columns of targets and predictions.
        b: Of B, of the same images in the same order.
        metric: Of drawn rows; None: their mean.
        resamples: How often images are drawn.
        confidence: Share of the drawn differences that the interval holds, the same share cut at either end.
        seed: Of the draws.

    Returns:
        Metric of B minus metric of A on all images, and the interval.

    Raises:
        UserError: The numbers of images differ, there is none, or no draw or confidence that is one was asked for.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
    """
    _check(a, b)
    if not len(a) or resamples < 1 or not 0 < confidence < 1:
        raise UserError(
            f"{len(a)} images, {resamples} resamples, confidence={confidence}: at least one image, one resample and a "
            "confidence in (0, 1) are needed"
        )
    generator = np.random.default_rng(seed)
    if metric is None:
        differences = np.asarray(b, np.float64) - np.asarray(a, np.float64)
        estimate, drawn = float(differences.mean()), _drawn_means(differences, resamples, generator)
    else:
        estimate = metric(b) - metric(a)
        rows = (generator.integers(len(a), size=len(a)) for _ in range(resamples))
        drawn = np.array([metric(b[chosen]) - metric(a[chosen]) for chosen in rows])
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def _drawn_means(values: NDArray[np.float64], resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Means of `(N,)` values drawn anew."""
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) <= 16:  # right or wrong: how often each kind is drawn is all that matters
        draws = generator.multinomial(len(values), counts / len(values), size=resamples)
        return draws @ kinds / len(values)
    means: NDArray[np.float64] = np.empty(resamples)
    for i in range(resamples):
        means[i] = values[generator.integers(len(values), size=len(values))].mean()
    return means


def _check(a: Values, b: Values) -> None:
    if len(a) != len(b):
        raise UserError(f"A has {len(a)} images and B {len(b)}: a paired test needs the same images")
