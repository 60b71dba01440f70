"""Subsets of images: the splits that a source brings, and those carved from its training images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.files import gather
from opsin.data.cache.image_store import Store
from opsin.data.stratify import carve, folds, subsample
from opsin.data.types import Indices, Split, SplitOrigin


@dataclass(frozen=True)
class Subset:
    """The images of one split: a selection from one store, or from two counted one after the other.

    Attributes:
        stores: One store, or two if folds are drawn from train and val.
        index: The selected rows ``(N,)``, sorted, int64.
        origin: Whether the source brings this split, or it is carved from its training images.
    """

    stores: tuple[Store, ...]
    index: Indices
    origin: SplitOrigin

    @classmethod
    def whole(cls, store: Store) -> "Subset":
        """Return all images of a store."""
        return cls((store,), np.arange(len(store)), store.origin)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.index)

    @property
    def targets(self) -> Indices:
        """Class indices ``(N,)``, int64."""
        return np.concatenate([store.targets for store in self.stores])[self.index]

    def read(self, positions: Indices) -> NDArray[np.uint8]:
        """Return a new array ``(B, H, W, C)`` of the pixels at some positions ``(B,)`` of the split."""
        return gather(self.stores, self.index[positions])

    def by_store(self) -> list[tuple[Store, Indices]]:
        """Return each store with the rows of this subset in it, in order."""
        found, start = [], 0
        for store in self.stores:
            in_store = (self.index >= start) & (self.index < start + len(store))
            found.append((store, self.index[in_store] - start))
            start += len(store)
        return found

    def locate(self, position: int) -> str:
        """Return where the image at a position of the split comes from."""
        store, row = self.find(position)
        return store.locate(row)

    def find(self, position: int) -> tuple[Store, int]:
        """Return the store of the image at a position of the split, and its row there."""
        index = int(self.index[position])
        for store in self.stores:
            if index < len(store):
                return store, index
            index -= len(store)
        raise IndexError(position)

    @property
    def identity(self) -> str:
        """A hex digest of the images, their classes and their order, whatever their size."""
        digest = hashlib.blake2b(digest_size=16)
        for store, rows in self.by_store():
            digest.update(store.identify(rows))
        return digest.hexdigest()

    def choose(self, index: Indices, origin: SplitOrigin) -> "Subset":
        """Return the images at some positions of this subset."""
        return Subset(self.stores, self.index[index], origin)


@dataclass(frozen=True)
class SplitOptions:
    """Options for splitting the training images.

    Attributes:
        val_fraction: Fraction of the training images carved as val, if the source has no val.
        test_fraction: Fraction of the training images carved as test before val, if the source has no test.
        train_fraction: Fraction of the remaining training images that is used.
        num_folds: Number of equal folds of train and the source's val together, one of which is val. None: no folds.
        fold: Number of the fold that is val, from 0.
        seed: Decides which images go where.
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
    """Split training images into train and val, and test if the source has none.

    Test is carved first, so it does not depend on folds and fractions of the other two.

    Args:
        train: The source's training images.
        val: The source's validation images, if it has them.
        has_test: Whether the source has test images, so that none are carved.
        options: Options of the split.
        classes: Class names, for messages.
    """
    subsets: dict[Split, Subset] = {}
    rest = Subset.whole(train)
    if not has_test:
        kept, carved = carve(rest.targets, options.test_fraction, options.seed)
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
        kept, carved = carve(rest.targets, options.val_fraction, options.seed)
        rest, subsets["val"] = rest.choose(kept, "given"), rest.choose(carved, "carved")
    if options.train_fraction < 1:
        rest = rest.choose(subsample(rest.targets, options.train_fraction, options.seed), "given")
    subsets["train"] = rest
    return subsets
