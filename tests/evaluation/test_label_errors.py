"""Label errors: an example by hand, injected errors, and out-of-sample probabilities."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from opsin.errors import UserError
from opsin.evaluation.label_errors import find_label_issues, out_of_fold_probabilities


def test_label_issues_equal_an_example_by_hand() -> None:
    first = np.array([0.9, 0.6, 0.3, 0.8, 0.2, 0.4, 0.1])
    targets = np.array([0, 0, 0, 1, 1, 1, 1])
    # Thresholds: class 0 (0.9 + 0.6 + 0.3) / 3 = 0.6; class 1 (0.2 + 0.8 + 0.6 + 0.9) / 4 = 0.625.
    # Row 2 is confidently 1 (0.7), row 3 confidently 0 (0.8); row 5 is confidently nothing.
    positions, scores, suggested = find_label_issues(np.stack([first, 1 - first], axis=1), targets)
    assert positions.tolist() == [3, 2]
    assert scores == pytest.approx([-0.6, -0.4])
    assert suggested.tolist() == [0, 1]


def test_the_threshold_is_per_class() -> None:
    # The network never gives class 2 more than 0.4; its labels are suspicious only below its usual probability.
    probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.45, 0.15, 0.4], [0.3, 0.3, 0.4], [0.5, 0.1, 0.4]])
    targets = np.array([0, 1, 2, 2, 0])
    # Thresholds 0.7, 0.8, 0.4: row 4, labeled 0 with 0.5, is confidently 2 although 0 is more probable.
    positions, scores, suggested = find_label_issues(probabilities, targets)
    assert positions.tolist() == [4]
    assert scores == pytest.approx([0.1])
    assert suggested.tolist() == [2]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_without_images_is_never_suggested(missing: int) -> None:
    targets = np.array([c for c in range(3) if c != missing] * 3)
    probabilities = np.full((6, 3), 0.1)
    probabilities[:, missing] = 0.8
    assert not np.isin(probabilities[find_label_issues(probabilities, targets).positions].argmax(1), [missing]).any()


def test_injected_errors_are_found_out_of_fold() -> None:
    digits = load_digits()
    generator = np.random.default_rng(0)
    flipped = generator.choice(len(digits.target), 60, replace=False)
    targets = digits.target.copy()
    targets[flipped] = (targets[flipped] + generator.integers(1, 10, 60)) % 10
    positions, scores, suggested = find_label_issues(out_of_fold_probabilities(digits.data, targets), targets)
    found = np.isin(flipped, positions).mean()
    assert len(positions) < 70
    assert found > 0.7  # of the 143 images that are predicted as another class
    assert np.isin(positions[:40], flipped).mean() > 0.9
    both = np.isin(positions, flipped)
    assert (suggested[both] == digits.target[positions[both]]).mean() > 0.9
    assert (np.diff(scores) >= 0).all()


def test_folds_are_stratified_and_repeatable() -> None:
    generator = np.random.default_rng(0)
    targets = np.array([0] * 20 + [3] * 20)
    rows = generator.normal(size=(40, 4)) + targets[:, None]
    found = out_of_fold_probabilities(rows, targets)
    assert found.shape == (40, 4)
    assert (found[:, 1:3] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_array_equal(found, out_of_fold_probabilities(rows, targets))
    with pytest.raises(UserError, match="fewer than the 5 folds"):
        out_of_fold_probabilities(rows[:23], targets[:23])
    with pytest.raises(UserError, match="at least two classes"):
        out_of_fold_probabilities(rows[:20], targets[:20])


def test_shapes_must_match() -> None:
    with pytest.raises(UserError, match=r"\(N, C\)"):
        find_label_issues(np.zeros((3, 2)), np.zeros(4, int))
