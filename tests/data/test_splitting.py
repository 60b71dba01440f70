import itertools
from fractions import Fraction

import numpy as np
import pytest

from opsin.data.splitting import carve, folds, stratified_sample, subsample
from opsin.errors import UserError

TARGETS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 23, 7]))


def counts(targets, index):
    return np.bincount(targets[index], minlength=int(targets.max()) + 1)


def largest_remainder(sizes, fraction):
    """Return the counts of Hamilton's method of apportionment, in exact arithmetic."""
    exact = [size * fraction for size in sizes]
    quota = [int(size) for size in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda k: quota[k] - exact[k])
    for k in by_remainder[: round(sum(sizes) * fraction) - sum(quota)]:
        quota[k] += 1
    return quota


@pytest.mark.parametrize("fraction", [Fraction(1, 10), Fraction(1, 5), Fraction(1, 2), Fraction(29, 100)])
def test_carve_is_a_stratified_partition(fraction):
    rest, carved = carve(TARGETS, float(fraction), seed=3)
    assert np.array_equal(np.sort(np.concatenate([rest, carved])), np.arange(len(TARGETS)))
    assert (np.diff(rest) > 0).all()
    assert (np.diff(carved) > 0).all()
    assert counts(TARGETS, carved).tolist() == largest_remainder([50, 23, 7], fraction)


@pytest.mark.parametrize(("images", "fraction"), [(4, 0.1), (4, 0.2), (5, 0.1), (9, 0.1)])
def test_the_classes_without_a_carved_image_depend_on_the_seed_not_on_their_names(images, fraction):
    targets = np.repeat(np.arange(50), images)
    without = [set(range(50)) - set(targets[carve(targets, fraction, seed)[1]]) for seed in range(40)]
    assert all(without)
    assert not set.intersection(*without)
    assert set(map(len, without)) == {50 - round(50 * images * fraction)}


def test_carve_depends_on_the_seed_only():
    first, again, other = (carve(TARGETS, 0.3, seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_carve_takes_random_images_of_a_class():
    targets = np.repeat([0, 1], 500)
    carved = carve(targets, 0.5, seed=0)[1]
    assert 200 < carved[:250].mean() < 300
    assert 700 < carved[250:].mean() < 800


def test_carve_never_empties_a_class():
    targets = np.array([0] * 100 + [1])
    rest, carved = carve(targets, 0.9, seed=0)
    assert 100 in rest
    assert (targets[carved] == 0).all()


def test_carve_takes_at_least_one():
    assert len(carve(np.zeros(3, np.int64), 0.01, seed=0)[1]) == 1


def test_carve_refuses_classes_of_one_image():
    with pytest.raises(UserError, match=r"fraction=0\.5: .* none of 3 classes has two \(3 images"):
        carve(np.arange(3), 0.5, seed=0)


@pytest.mark.parametrize("num_folds", [2, 5, 7])
def test_folds_are_a_stratified_partition(num_folds):
    fold_indices = folds(TARGETS, num_folds, 4, "abc")
    assert len(fold_indices) == num_folds
    assert np.array_equal(np.sort(np.concatenate(fold_indices)), np.arange(len(TARGETS)))
    table = np.stack([counts(TARGETS, fold) for fold in fold_indices])
    assert (np.ptp(table, axis=0) <= 1).all()
    assert np.ptp(table.sum(axis=1)) <= 1
    assert all((np.diff(fold) > 0).all() for fold in fold_indices)


def test_folds_refuse_a_class_that_is_too_small():
    with pytest.raises(UserError, match=r"Class 'owl' has too few images \(7\) for num_folds=8"):
        folds(TARGETS, 8, 0, ["cat", "dog", "owl"])


def test_subsample_keeps_proportions_and_every_class():
    kept = subsample(TARGETS, 0.1, seed=0)
    assert counts(TARGETS, kept).tolist() == [5, 2, 1]
    assert counts(TARGETS, subsample(TARGETS, 0.001, seed=0)).tolist() == [1, 1, 1]
    assert np.array_equal(subsample(TARGETS, 1.0, seed=0), np.arange(len(TARGETS)))


def test_subsamples_of_one_seed_are_nested():
    grown = [set(subsample(TARGETS, fraction, seed=5).tolist()) for fraction in (0.05, 0.1, 0.33, 0.7, 1.0)]
    assert all(small <= large for small, large in itertools.pairwise(grown))


def test_carve_accepts_gaps_in_the_class_indices():
    targets = np.array([5] * 10 + [9] * 10)
    rest, carved = carve(targets, 0.2, seed=0)
    assert sorted(targets[carved].tolist()) == [5, 5, 9, 9]
    assert len(rest) == 16


@pytest.mark.parametrize(
    ("count", "expected"), [(80, [50, 23, 7]), (40, [25, 12, 3]), (16, [10, 5, 1]), (3, [1, 1, 1])]
)
def test_a_sample_holds_every_class_in_its_proportion(count, expected):
    chosen = stratified_sample(TARGETS, count, seed=3)
    assert counts(TARGETS, chosen).tolist() == expected
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, stratified_sample(TARGETS, count, seed=3))
    assert count == len(TARGETS) or not np.array_equal(chosen, stratified_sample(TARGETS, count, seed=4))


def test_a_sample_of_fewer_images_than_classes_does_not_prefer_the_first_ones():
    targets = np.repeat(np.arange(1000), 3)
    chosen = [targets[stratified_sample(targets, 100, seed)] for seed in (0, 1)]
    assert all(len(np.unique(classes)) == 100 and 300 < classes.mean() < 700 for classes in chosen)
    assert not np.array_equal(*chosen)
