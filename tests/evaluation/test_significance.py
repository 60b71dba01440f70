"""Paired tests against published numbers, formulas and their error rate."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from opsin.errors import UserError
from opsin.evaluation.confidence_intervals import Interval
from opsin.evaluation.significance import (
    adjusted_by_holm,
    bootstrap_difference,
    difference_over_runs,
    is_significant,
    mcnemar,
)


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_equals_published_numbers() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1 (bronchial hyperresponsiveness): 1 and 7 discordant of 21.
    found = mcnemar(*pair(1, 1, 7, 12))
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, 1, 7, 12)
    assert found.p == pytest.approx(0.0703, abs=5e-5)


def test_mcnemar_is_symmetric() -> None:
    a, b = pair(50, 30, 12, 8)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.p == other.p == pytest.approx(stats.binomtest(12, 42).pvalue)
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a) == (30, 12)


def test_networks_that_agree_do_not_differ() -> None:
    assert mcnemar(*pair(9, 0, 0, 1)).p == 1
    assert mcnemar(*pair(9, 4, 4, 1)).p == 1


def test_the_test_keeps_its_level() -> None:
    generator = np.random.default_rng(0)
    found = [mcnemar(*(generator.random((2, 300)) < 0.8)) for _ in range(1000)]
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05


def test_bootstrap_of_accuracy_equals_the_formula() -> None:
    a, b = pair(700, 100, 60, 140)
    estimate, low, high = bootstrap_difference(a, b)
    margin = 1.96 * np.sqrt((0.16 - 0.04**2) / 1000)
    assert estimate == pytest.approx(0.04)
    assert (low, high) == pytest.approx((0.04 - margin, 0.04 + margin), abs=0.002)


def test_pairing_removes_the_difficulty_of_images() -> None:
    generator = np.random.default_rng(0)
    loss = generator.exponential(size=400)
    worse = loss + generator.normal(0.05, 0.05, 400)
    estimate, low, high = bootstrap_difference(worse, loss)
    assert 0 < low < estimate < high < 0.1  # unpaired it would be about 0.05 +- 0.14


def test_both_ways_of_resampling_agree() -> None:
    a, b = pair(100, 20, 40, 40)
    quick = bootstrap_difference(a, b)
    plain = bootstrap_difference(a + np.linspace(0, 1e-9, len(a)), b)  # many distinct values
    assert quick == pytest.approx(plain, abs=0.01)


def test_different_numbers_of_images_are_an_error() -> None:
    with pytest.raises(UserError, match="same images"):
        mcnemar(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(UserError, match="at least one image"):
        bootstrap_difference(np.empty(0), np.empty(0))


def test_holm_adjusts_in_the_order_of_p() -> None:
    assert adjusted_by_holm([0.03, 0.01, 0.04, 0.5], 4) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert adjusted_by_holm([0.03, 0.01, 0.04], 6) == pytest.approx([0.15, 0.06, 0.16])
    assert adjusted_by_holm([0.6, 0.7], 2) == [1.0, 1.0]
    assert adjusted_by_holm([], 0) == []


def test_p_comes_from_mcnemar_for_one_pair_of_runs_and_from_students_t_for_several() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.random((4, 500)) < share for share in (0.95, 0.9))
    tests = [mcnemar(*pair) for pair in zip(a, b, strict=True)]
    assert difference_over_runs(tests[:1], paired=True) == (None, tests[0].p)
    for paired, expected in ((True, stats.ttest_rel), (False, partial(stats.ttest_ind, equal_var=False))):
        interval, p = difference_over_runs(tests, paired)
        result = expected(a.mean(1), b.mean(1))
        assert interval is not None
        assert p == pytest.approx(result.pvalue)
        assert interval[1:] == pytest.approx(tuple(result.confidence_interval()))


def test_several_runs_need_an_interval_over_images_without_0() -> None:
    around_0, above_0 = Interval(0.01, -0.01, 0.03), Interval(0.02, 0.01, 0.03)
    assert is_significant(0.04, runs=1, over_images=around_0)
    assert not is_significant(0.04, runs=3, over_images=around_0)
    assert is_significant(0.04, runs=3, over_images=above_0)
    assert not is_significant(0.05, runs=1, over_images=above_0)
