"""Which images each split serves: what the source brings, and what is carved where it does not."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.files import gather
from opsin.data.cache.image_store import Origin, Store
from opsin.data.source import Split
from opsin.data.stratify import Indices, carve, folds, subsample


@dataclass(frozen=True)
class Subset:
    """The images of one split: a choice among the images of some stores laid end to end.

    Attributes:
        stores: One store, or two of which folds are drawn.
        index: The choice ``(N,)``, sorted, int64.
        origin: Whether the source brings this split, or it was carved from its training images.
    """

    stores: tuple[Store, ...]
    index: Indices
    origin: Origin

    @classmethod
    def whole(cls, store: Store) -> "Subset":
        """All images of a store, as the source gives them."""
        return cls((store,), np.arange(len(store)), store.origin)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.index)

    @property
    def targets(self) -> Indices:
        """Class indices ``(N,)``, int64."""
        return np.concatenate([store.targets for store in self.stores])[self.index]

    def read(self, positions: Indices) -> NDArray[np.uint8]:
        """A new array ``(B, H, W, C)`` of the pixels at some positions ``(B,)`` of the split."""
        return gather(self.stores, self.index[positions])

    def by_store(self) -> list[tuple[Store, Indices]]:
        """Each store, and which of its images are of this part, in order."""
        found, start = [], 0
        for store in self.stores:
            inside = (self.index >= start) & (self.index < start + len(store))
            found.append((store, self.index[inside] - start))
            start += len(store)
        return found

    def locate(self, position: int) -> str:
        """Where the image at a position of the split comes from."""
        store, row = self.find(position)
        return store.locate(row)

    def find(self, position: int) -> tuple[Store, int]:
        """The store of the image at a position of the split, and its row there."""
        index = int(self.index[position])
        for store in self.stores:
            if index < len(store):
                return store, index
            index -= len(store)
        raise IndexError(position)

    @property
    def identity(self) -> str:
        """A hex digest of which images these are, with their classes and in their order, at whatever size."""
        digest = hashlib.blake2b(digest_size=16)
        for store, rows in self.by_store():
            digest.update(store.identify(rows))
        return digest.hexdigest()

    def choose(self, index: Indices, origin: Origin) -> "Subset":
        """The images at some positions of this part."""
        return Subset(self.stores, self.index[index], origin)


@dataclass(frozen=True)
class SplitOptions:
    """How the training images are divided.

    Attributes:
        val_fraction: Share of the training images that becomes val where the source brings none.
        test_fraction: Share that becomes test, likewise; carved before val.
        train_fraction: Share of what then remains that is trained on.
        num_folds: Val is one of so many equal folds of train and the source's val together. None: no folds.
        fold: Which fold, from 0.
        seed: Decides which images.
    """

    val_fraction: float
    test_fraction: float
    train_fraction: float
    num_folds: int | None
    fold: int
    seed: int


def split_train(
    train: Store, val: Store | None, *, has_test: bool, division: SplitOptions, classes: Sequence[str]
) -> dict[Split, Subset]:
    """Train and val, and test where the source does not bring it.

    Test is carved first, so it does not depend on folds and fractions of the others.

    Args:
        train: The source's training images.
        val: Its validation images, if it brings them.
        has_test: Whether it brings test images: nothing is carved for them then.
        division: What is carved, and how.
        classes: Names of the classes, for messages.
    """
    parts: dict[Split, Subset] = {}
    rest = Subset.whole(train)
    if not has_test:
        kept, carved = carve(rest.targets, division.test_fraction, division.seed)
        rest, parts["test"] = rest.choose(kept, "given"), rest.choose(carved, "carved")
    if division.num_folds is not None:
        if val is not None:
            rest = Subset((train, val), np.append(rest.index, len(train) + np.arange(len(val))), "given")
        held_out = folds(rest.targets, division.num_folds, division.seed, classes)[division.fold]
        kept = np.setdiff1d(np.arange(len(rest)), held_out)
        rest, parts["val"] = rest.choose(kept, "given"), rest.choose(held_out, "carved")
    elif val is not None:
        parts["val"] = Subset.whole(val)
    else:
        kept, carved = carve(rest.targets, division.val_fraction, division.seed)
        rest, parts["val"] = rest.choose(kept, "given"), rest.choose(carved, "carved")
    if division.train_fraction < 1:
        rest = rest.choose(subsample(rest.targets, division.train_fraction, division.seed), "given")
    parts["train"] = rest
    return parts
