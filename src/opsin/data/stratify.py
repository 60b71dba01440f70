"""Seeded, stratified divisions of a set of images: pure functions from targets to sorted index arrays.

Every function takes ``targets``, an int64 array ``(N,)`` of class indices, and answers with indices into it.
The answer depends on targets and seed alone, on every platform and with every numpy version.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError

Indices = NDArray[np.int64]


def carve(targets: Indices, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Divide a set in two, every class in the same proportion.

    The part holds ``round(fraction * N)`` images (at least one), shared out among the classes by the largest
    remainder; a class never loses its last image to it.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Share of the part, above 0 and below 1.
        seed: Which images; at least 0 and below 2**32.

    Returns:
        The rest and the part, each sorted; disjoint, and together every index once.

    Raises:
        UserError: No class has an image to spare.
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
            f"{len(targets)} images of {len(groups)} classes are too few to carve a part of {fraction:g} from: "
            "every class needs a second image."
        )
    part = [group[:size] for group, size in zip(groups, quota, strict=True)]
    rest = [group[size:] for group, size in zip(groups, quota, strict=True)]
    return np.sort(np.concatenate(rest)), np.sort(np.concatenate(part))


def folds(targets: Indices, num_folds: int, seed: int, classes: Sequence[str]) -> list[Indices]:
    """Divide a set into folds of equal size, every class in the same proportion.

    The sizes of two folds, and their counts of any class, differ by one at most.

    Args:
        targets: Class indices ``(N,)``.
        num_folds: How many folds, at least 2.
        seed: Which images; at least 0 and below 2**32.
        classes: Names of the classes, for the message.

    Returns:
        The held-out indices of each fold, sorted; disjoint, and together every index once.

    Raises:
        UserError: A class has fewer images than there are folds.
    """
    groups = _shuffled_classes(targets, seed)
    for group in groups:
        if len(group) < num_folds:
            raise UserError(
                f"Class '{classes[int(targets[group[0]])]}' has {len(group)} image(s), too few for "
                f"num_folds={num_folds}: every fold needs one. Lower num_folds or add images."
            )
    # Dealt out like cards, class after class without starting anew, so that the sizes stay level.
    order = np.concatenate(groups)
    return [np.sort(order[fold::num_folds]) for fold in range(num_folds)]


def subsample(targets: Indices, fraction: float, seed: int) -> Indices:
    """Keep a share of every class, and at least one image of it.

    With one seed a smaller share lies within every larger one, as a learning curve wants it.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Share to keep, above 0 and at most 1.
        seed: Which images; at least 0 and below 2**32.

    Returns:
        The kept indices, sorted.
    """
    groups = _shuffled_classes(targets, seed)
    return np.sort(np.concatenate([group[: max(1, round(fraction * len(group)))] for group in groups]))


def _shuffled_classes(targets: Indices, seed: int) -> list[Indices]:
    """The indices of every class that occurs, in ascending order of class, each shuffled."""
    # RandomState, not default_rng: only its stream is promised never to change (NEP 19), and a split must
    # not.
    random = np.random.RandomState(seed)
    return [random.permutation(np.flatnonzero(targets == value)) for value in np.unique(targets)]
