"""Subsets: the images of one split, as a selection from one store or two."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.files import gather
from opsin.data.cache.image_store import Store
from opsin.data.types import Indices, SplitOrigin


def evenly_spaced(length: int, count: int) -> Indices:
    """Return at most `count` positions of `length`, evenly spaced, because images are often sorted by class."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


@dataclass(frozen=True)
class Subset:
    """The images of one split: a selection from one store, or from two whose rows are numbered one after the other.

    Attributes:
        stores: One store, or two if folds are drawn from train and val.
        index: The selected rows ``(N,)``, sorted, int64.
        origin: Whether the source provides this split, or it is split off the training images.
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
        """A hex digest of the images, their classes and their order, independent of their size."""
        digest = hashlib.blake2b(digest_size=16)
        for store, rows in self.by_store():
            digest.update(store.identify(rows))
        return digest.hexdigest()

    def shared_with(self, other: "Subset") -> int:
        """Return the number of images that are in another subset of the same stores too."""
        rows = {id(store): found for store, found in other.by_store()}
        return sum(int(np.isin(found, rows.get(id(store), ())).sum()) for store, found in self.by_store())

    def choose(self, index: Indices, origin: SplitOrigin) -> "Subset":
        """Return the images at some positions of this subset."""
        return Subset(self.stores, self.index[index], origin)
