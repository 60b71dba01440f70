"""Calibration against an example by hand, the metric of a run, and a known temperature."""

import numpy as np
import pytest
import torch

from opsin.errors import UserError
from opsin.evaluation import calibration
from opsin.evaluation.calibration import (
    TEMPERATURES,
    calibrate,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    temperature_scaled,
)
from opsin.runs.metric_registry import ECE_BINS
from opsin.training.metrics import SplitMetrics


def test_results_have_the_number_of_bins_that_the_documentation_names() -> None:
    assert f"over {ECE_BINS} bins of equal width" in str(calibration.__doc__)


def test_error_equals_an_example_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ECE_BINS", 5)
    first = np.array([0.9, 0.95, 0.85, 0.7, 0.65, 0.3])
    targets = np.array([0, 0, 1, 0, 1, 1])
    found = reliability(np.stack([first, 1 - first], axis=1), targets)
    # Bin [0.8, 1]: 0.9, 0.95, 0.85, two of three correct. Bin [0.6, 0.8): 0.7 correct, 0.65 wrong, 0.7 correct.
    np.testing.assert_array_equal(found.counts, [0, 0, 0, 3, 3])
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, np.nan, 2.05 / 3, 0.9])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, np.nan, 2 / 3, 2 / 3])
    assert found.ece == pytest.approx((3 * (2.05 / 3 - 2 / 3) + 3 * (0.9 - 2 / 3)) / 6)


@pytest.mark.parametrize("classes", [2, 10])
def test_error_equals_the_metric_of_a_run(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(0, 2, (2000, classes)).astype(np.float32)
    targets = np.random.default_rng(1).integers(classes, size=2000)
    measure = SplitMetrics(classes, len(targets))
    measure.update(torch.from_numpy(logits), torch.from_numpy(targets), torch.tensor(0.0))
    measured, _ = measure.compute()
    found = reliability(temperature_scaled(logits, 1), targets)
    assert found.ece == pytest.approx(measured["ece"], abs=1e-6)
    assert len(found.counts) == ECE_BINS


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("sure_and_wrong", [1, 30])
def test_error_equals_the_metric_of_a_run_with_probabilities_of_one(classes: int, sure_and_wrong: int) -> None:
    # Probabilities of 0.96 that are all correct, and of exactly 1 of which some are wrong: the same bin.
    logits = np.zeros((100, classes), np.float32)
    logits[:, 0] = np.log(0.96 / 0.04 * (classes - 1))
    logits[50:, 0] = 200
    targets = np.zeros(100, np.int64)
    targets[50 : 50 + sure_and_wrong] = 1
    measure = SplitMetrics(classes, len(targets))
    measure.update(torch.from_numpy(logits), torch.from_numpy(targets), torch.tensor(0.0))
    measured, _ = measure.compute()
    assert measured["ece"] == pytest.approx(abs(0.98 - (1 - sure_and_wrong / 100)), abs=1e-6)
    assert measured["ece"] == pytest.approx(reliability(temperature_scaled(logits, 1), targets).ece, abs=1e-6)


def test_a_probability_of_one_counts_in_the_last_bin() -> None:
    found = reliability(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert found.counts[-1] == 2
    assert found.ece == 0.5


def test_a_known_temperature_is_found() -> None:
    generator = np.random.default_rng(0)
    calibrated = generator.normal(0, 2, (20_000, 5))
    targets = (temperature_scaled(calibrated, 1).cumsum(1) > generator.random((20_000, 1))).argmax(1)
    overconfident = calibrated * 3
    temperature = fit_temperature(overconfident, targets)
    assert temperature == pytest.approx(3, rel=0.05)
    assert reliability(temperature_scaled(overconfident, 1), targets).ece > 0.1
    assert reliability(temperature_scaled(overconfident, temperature), targets).ece < 0.015


def test_no_temperature_nearby_is_better() -> None:
    generator = np.random.default_rng(3)
    logits, targets = generator.normal(0, 3, (300, 4)), generator.integers(4, size=300)
    targets[:200] = logits[:200].argmax(1)
    best = fit_temperature(logits, targets)
    least = negative_log_likelihood(logits / best, targets)
    assert all(negative_log_likelihood(logits / (best * factor), targets) > least for factor in (0.98, 1.02))


def test_without_errors_the_temperature_stays_within_bounds() -> None:
    logits = np.eye(3) * 4
    assert TEMPERATURES[0] <= fit_temperature(logits, np.arange(3)) < 0.2


def test_invalid_arguments_are_errors() -> None:
    with pytest.raises(UserError, match="no images"):
        reliability(np.empty((0, 3)), np.empty(0, int))
    with pytest.raises(UserError, match=r"\(N, C\)"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, int))
    with pytest.raises(UserError, match="above 0"):
        temperature_scaled(np.zeros((1, 2)), 0)


def test_a_temperature_is_applied_only_if_it_helps() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 3, 500)
    calibrated = generator.normal(size=(500, 3)).astype(np.float32)
    targets = np.array([generator.choice(3, p=row) for row in temperature_scaled(calibrated, 1.0)])
    found = calibrate(calibrated * 3, targets)
    assert found.reason is None
    assert found.temperature == fit_temperature(calibrated * 3, targets) == pytest.approx(3, rel=0.2)
    assert (found.images, found.nll[1] < found.nll[0]) == (500, True)

    none = calibrate(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    few = calibrate(calibrated[:29] * 3, targets[:29])
    enough = calibrate(calibrated[:30] * 3, targets[:30])
    assert (enough.reason, enough.images) == (None, 30)
    separable = calibrate(np.eye(30, dtype=np.float32), np.arange(30))  # the best temperature is 0
    best = calibrate(calibrated * 3 / found.temperature, targets)
    diverged = calibrate(np.full((90, 3), np.nan, np.float32), np.arange(90) % 3)
    cases = {
        "no validation images": none,
        "at least 30": few,
        "no minimum": separable,
        "fits": best,
        "not finite": diverged,
    }
    for words, case in cases.items():
        assert case.temperature == 1
        assert words in str(case), case
