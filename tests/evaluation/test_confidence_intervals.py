"""Intervals against the formula, and their coverage."""

import math

import numpy as np
import pytest

from opsin.errors import UserError
from opsin.evaluation.confidence_intervals import accuracy_interval, interval_over_runs, t_interval, wilson_interval


def test_wilson_equals_the_formula() -> None:
    z, n, p = 1.959963984540054, 50, 0.9
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson_interval(45, 50) == pytest.approx((p, center - margin, center + margin), abs=1e-12)


def test_wilson_at_proportions_of_0_and_1() -> None:
    all_right, all_wrong = wilson_interval(10, 10), wilson_interval(0, 10)
    assert all_right[0] == 1
    assert all_right.high == 1
    assert 0.7 < all_right.low < 0.75
    assert all_wrong.low == 0
    assert all_wrong.high == pytest.approx(1 - all_right.low)
    nothing = wilson_interval(0, 0)
    assert math.isnan(nothing.estimate)
    assert nothing[1:] == (0, 1)


@pytest.mark.slow
def test_t_interval_has_the_stated_coverage() -> None:
    generator = np.random.default_rng(0)
    held = sum(low <= 3 <= high for _, low, high in (t_interval(generator.normal(3, 2, 3)) for _ in range(2000)))
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval() -> None:
    mean, low, high = t_interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(UserError, match="more successes than trials"):
        wilson_interval(3, 2)
    with pytest.raises(UserError, match="at least one value"):
        t_interval([])
    with pytest.raises(UserError, match="confidence"):
        wilson_interval(1, 2, confidence=95)


def test_shown_intervals_have_a_level_of_95_percent() -> None:
    assert accuracy_interval(45, 50) == wilson_interval(45, 50, confidence=0.95)
    over_runs = interval_over_runs([0.5, 0.6, 0.8])
    assert over_runs == t_interval([0.5, 0.6, 0.8], confidence=0.95)
    assert over_runs.margin == pytest.approx(over_runs.high - over_runs.estimate)
    assert math.isnan(interval_over_runs([0.5]).margin)
