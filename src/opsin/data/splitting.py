"""Train, validation and test splits: the order and the methods of splitting images off the training images.

`split_train` decides the order; `carve`, `folds`, `subsample` and `stratified_sample` select images, stratified and
seeded. They take ``targets``, an int64 array ``(N,)`` of class indices, and return sorted indices into it. The result
depends only on targets and seed, on every platform and with every NumPy version.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opsin.data.cache.image_store import Store
from opsin.data.subset import Subset
from opsin.data.types import Indices, Split
from opsin.errors import UserError


def carve(targets: Indices, fraction: float, seed: int, key: str = "fraction") -> tuple[Indices, Indices]:
    """Split a set in two, every class in the same proportion.

    The subset that is split off has ``round(fraction * N)`` images (at least one), or fewer if a class would keep no
    image. They are allotted to the classes by the largest remainder method; every class keeps at least one image in the
    rest. If not every class gets an image, the seed decides between equal remainders.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Fraction to split off, above 0 and below 1.
        seed: Seed of the selection, at least 0 and below 2**32.
        key: The config key of the fraction, for the message.

    Returns:
        The rest and the subset that is split off, each sorted; disjoint, and together every index once.

    Raises:
        UserError: No class has a second image.
    """
    groups = _shuffled_classes(targets, seed)
    counts = np.array([len(group) for group in groups], dtype=np.int64)
    share = counts * fraction
    quota = np.floor(share).astype(np.int64)
    missing = max(1, round(fraction * len(targets))) - int(quota.sum())
    ties = np.arange(len(groups))
    if not quota.all():  # which classes are left out must not depend on their names
        np.random.RandomState(seed).shuffle(ties)
    quota[np.lexsort((ties, quota - share))[: max(missing, 0)]] += 1
    quota = np.minimum(quota, counts - 1)
    if not quota.any():
        raise UserError(
            f"{key}={fraction:g}: too few images to split, because none of {len(groups)} classes has two "
            f"({len(targets)} images in all, without those that were split off before): add images"
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
        seed: Seed of the selection, at least 0 and below 2**32.
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
                f"Class '{classes[int(targets[group[0]])]}' has too few images ({len(group)}) for "
                f"num_folds={num_folds}: every fold needs one. Lower num_folds or add images."
            )
    # Images go to the folds in turn. The next class continues at the fold after the last one, so that the sizes are
    # equal.
    order = np.concatenate(groups)
    return [np.sort(order[fold::num_folds]) for fold in range(num_folds)]


def subsample(targets: Indices, fraction: float, seed: int) -> Indices:
    """Keep a fraction of every class, and at least one image of it.

    For one seed a smaller fraction is a subset of every larger one, as learning curves need.

    Args:
        targets: Class indices ``(N,)``.
        fraction: Fraction to keep, above 0 and at most 1.
        seed: Seed of the selection, at least 0 and below 2**32.

    Returns:
        The kept indices, sorted.
    """
    groups = _shuffled_classes(targets, seed)
    return np.sort(np.concatenate([group[: max(1, round(fraction * len(group)))] for group in groups]))


def stratified_sample(targets: Indices, count: int, seed: int) -> Indices:
    """Draw a sample in which every class has its share of the images, allotted by the Sainte-Laguë method.

    If the sample has room for all classes, each has at least one image.

    Args:
        targets: Class indices ``(N,)``.
        count: Number of images to draw, at most N.
        seed: Seed of the selection, at least 0 and below 2**32.

    Returns:
        The drawn indices, sorted.
    """
    groups = _shuffled_classes(targets, seed)
    if count < len(groups):  # which classes are left out must not depend on their names
        groups = [groups[number] for number in np.random.RandomState(seed).permutation(len(groups))]
    turns = [(np.arange(len(group)) + 0.5) / len(group) for group in groups]
    if count >= len(groups):
        for turn in turns:
            turn[0] = 0.0
    first = np.argsort(np.concatenate(turns), kind="stable")[:count]
    return np.sort(np.concatenate(groups)[first])


def _shuffled_classes(targets: Indices, seed: int) -> list[Indices]:
    """Return the indices of every class that occurs, in ascending order of class, each shuffled."""
    # RandomState, not default_rng: only its stream never changes (NEP 19), and a split must not change.
    random = np.random.RandomState(seed)
    return [random.permutation(np.flatnonzero(targets == value)) for value in np.unique(targets)]


@dataclass(frozen=True)
class SplitOptions:
    """Options for splitting the training images: keys of `datamodule`, whose defaults are in `opsin.data.options`.

    Attributes:
        val_fraction: Fraction that is split off as val, of the training images that remain after test, if the source
            has no val.
        test_fraction: Fraction of the training images split off as test before val, if the source has no test.
        train_fraction: Fraction of the remaining training images that is used.
        num_folds: Number of equal folds. Train and val of the source are joined and divided, and fold number `fold` is
            val. None: no folds.
        fold: Number of the fold that is val, from 0.
        seed: Decides which images go where: `split_seed` if it is set, else the seed of the run.
    """

    val_fraction: float
    test_fraction: float
    train_fraction: float
    num_folds: int | None
    fold: int
    seed: int


def split_train(
    train: Store, val: Store | None, *, has_test: bool, options: SplitOptions, classes: Sequence[str]
) -> dict[Split, Subset]:
    """Return train, val and, if the source has no test images, test.

    If the source has no test images, test is split off the training images; if it has no validation images, val is
    split off too. With `num_folds`, val is always a fold. Test is split off first, so it does not depend on folds and
    fractions of the other two.

    Args:
        train: The source's training images.
        val: The source's validation images, if it has them.
        has_test: Whether the source has test images, so that none are split off.
        options: Options of the split.
        classes: Class names, for messages.
    """
    subsets: dict[Split, Subset] = {}
    rest = Subset.whole(train)
    if not has_test:
        kept, carved = carve(rest.targets, options.test_fraction, options.seed, "datamodule.test_fraction")
        rest, subsets["test"] = rest.choose(kept, "given"), rest.choose(carved, "carved")
    if options.num_folds is not None:
        if val is not None:
            rest = Subset((train, val), np.append(rest.index, len(train) + np.arange(len(val))), "given")
        held_out = folds(rest.targets, options.num_folds, options.seed, classes)[options.fold]
        kept = np.setdiff1d(np.arange(len(rest)), held_out)
        rest, subsets["val"] = rest.choose(kept, "given"), rest.choose(held_out, "carved")
    elif val is not None:
        subsets["val"] = Subset.whole(val)
    else:
        kept, carved = carve(rest.targets, options.val_fraction, options.seed, "datamodule.val_fraction")
        rest, subsets["val"] = rest.choose(kept, "given"), rest.choose(carved, "carved")
    if options.train_fraction < 1:
        rest = rest.choose(subsample(rest.targets, options.train_fraction, options.seed), "given")
    subsets["train"] = rest
    return subsets
