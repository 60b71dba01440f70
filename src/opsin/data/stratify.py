"""Seeded, stratified splits: pure functions from targets to sorted index arrays.

Every function takes ``targets``, an int64 array ``(N,)`` of class indices, and returns indices into it.
The result depends only on targets and seed, on every platform and with every NumPy version.
"""

from collections.abc import Sequence

import numpy as np

from opsin.data.types import Indices
from opsin.errors import UserError


def carve(targets: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Split a set in two, every class in the same proportion.

    The carved subset has ``round(fraction * N)`` images (at least one), allotted to the classes by the largest
    remainder method; every class keeps at least one image in the rest.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Fraction to carve, above 0 and below 1.
        seed: Decides which images; at least 0 and below 2**32.

    Returns:
        The rest and the carved subset, each sorted; disjoint, and together every index once.

    Raises:
        UserError: No class has a second image.
    """
    groups = _shuffled_classes(targets, seed)
    counts = np.array([len(group) for group in groups], dtype=np.int64)
    share = counts * fraction
    quota = np.floor(share).astype(np.int64)
    missing = max(1, round(fraction * len(targets))) - int(quota.sum())
    quota[np.argsort(quota - share, kind="stable")[: max(missing, 0)]] += 1
    quota = np.minimum(quota, counts - 1)
    if not quota.any():
        raise UserError(
            f"{len(targets)} images of {len(groups)} classes are too few to carve a fraction of {fraction:g}: "
            "a class needs at least two images."
        )
    carved = [group[:size] for group, size in zip(groups, quota, strict=True)]
    rest = [group[size:] for group, size in zip(groups, quota, strict=True)]
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(carved))


def folds(targets: Indices, num_folds: int, seed: int, classes: Sequence[str]) -> list[Indices]:
    """Split a set into folds of equal size, every class in the same proportion.

    The sizes of two folds, and their counts of any class, differ by at most one.

    Args:
        targets: Class indices ``(N,)``.
        num_folds: Number of folds, at least 2.
        seed: Decides which images; at least 0 and below 2**32.
        classes: Class names, for the message.

    Returns:
        The held-out indices of each fold, sorted; disjoint, and together every index once.

    Raises:
        UserError: A class has fewer images than folds.
    """
    groups = _shuffled_classes(targets, seed)
    for group in groups:
        if len(group) < num_folds:
            raise UserError(
                f"Class '{classes[int(targets[group[0]])]}' has {len(group)} image(s), too few for "
                f"num_folds={num_folds}: every fold needs one. Lower num_folds or add images."
            )
    # Dealt like cards, class after class, continuing where the last class ended, so that the sizes are equal.
    order = np.concatenate(groups)
    return [np.sort(order[fold::num_folds]) for fold in range(num_folds)]


def subsample(targets: Indices, fraction: float, seed: int) -> Indices:
    """Keep a fraction of every class, and at least one image of it.

    For one seed a smaller fraction is a subset of every larger one, as learning curves need.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Fraction to keep, above 0 and at most 1.
        seed: Decides which images; at least 0 and below 2**32.

    Returns:
        The kept indices, sorted.
    """
    groups = _shuffled_classes(targets, seed)
    return np.sort(np.concatenate([group[: max(1, round(fraction * len(group)))] for group in groups]))


def _shuffled_classes(targets: Indices, seed: int) -> list[Indices]:
    """Return the indices of every class that occurs, in ascending order of class, each shuffled."""
    # RandomState, not default_rng: only its stream never changes (NEP 19), and a split must not change.
    random = np.random.RandomState(seed)
    return [random.permutation(np.flatnonzero(targets == value)) for value in np.unique(targets)]
