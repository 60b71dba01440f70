"""Paired tests against published numbers, scikit-learn's metrics and their error rate."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from opsin.errors import UserError
from opsin.evaluation.significance import bootstrap_difference, mcnemar


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_equals_published_numbers() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1 (bronchial hyperresponsiveness): 1 and 7 discordant of 21.
    found = mcnemar(*pair(1, 1, 7, 12))
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, 1, 7, 12)
    assert found.p == pytest.approx(0.0703, abs=5e-5)
    assert found.mid_p == pytest.approx(0.0391, abs=5e-5)


def test_mcnemar_is_symmetric() -> None:
    a, b = pair(50, 30, 12, 8)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.p == other.p == pytest.approx(stats.binomtest(12, 42).pvalue)
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a) == (30, 12)


def test_networks_that_agree_do_not_differ() -> None:
    assert mcnemar(*pair(9, 0, 0, 1)).p == 1
    assert mcnemar(*pair(9, 4, 4, 1)).p == mcnemar(*pair(9, 4, 4, 1)).mid_p == 1


def test_the_test_keeps_its_level() -> None:
    generator = np.random.default_rng(0)
    found = [mcnemar(*(generator.random((2, 300)) < 0.8)) for _ in range(1000)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05
    assert np.mean([one.mid_p < 0.05 for one in found]) == pytest.approx(0.05, abs=0.015)


def test_bootstrap_of_accuracy_equals_the_formula() -> None:
    a, b = pair(700, 60, 100, 140)
    estimate, low, high = bootstrap_difference(a, b)
    margin = 1.96 * np.sqrt((0.16 - 0.04**2) / 1000)
    assert estimate == pytest.approx(0.04)
    assert (low, high) == pytest.approx((0.04 - margin, 0.04 + margin), abs=0.002)


def test_pairing_removes_the_difficulty_of_images() -> None:
    generator = np.random.default_rng(0)
    loss = generator.exponential(size=400)
    worse = loss + generator.normal(0.05, 0.05, 400)
    estimate, low, high = bootstrap_difference(loss, worse)
    assert 0 < low < estimate < high < 0.1  # unpaired it would be about 0.05 +- 0.14


def test_any_metric_can_be_compared() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(3, size=200)
    a = np.where(generator.random(200) < 0.6, targets, 0)
    rows_a, rows_b = np.stack([targets, a], axis=1), np.stack([targets, targets], axis=1)

    def f1(rows: np.ndarray) -> float:
        return float(f1_score(rows[:, 0], rows[:, 1], average="macro"))

    estimate, low, high = bootstrap_difference(rows_a, rows_b, f1, resamples=50)
    assert estimate == pytest.approx(1 - f1(rows_a))
    assert low < estimate < high
    assert bootstrap_difference(rows_a, rows_b, f1, resamples=50) == (estimate, low, high)


def test_both_ways_of_resampling_agree() -> None:
    a, b = pair(100, 20, 40, 40)
    quick = bootstrap_difference(a, b, resamples=4000)
    plain = bootstrap_difference(a, b, lambda rows: float(rows.mean()), resamples=4000)
    assert quick == pytest.approx(plain, abs=0.01)


def test_different_numbers_of_images_are_an_error() -> None:
    with pytest.raises(UserError, match="same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(UserError, match="at least one image"):
        bootstrap_difference(np.empty(0), np.empty(0))
