"""The splits of one dataset at one size: stores of decoded images, and the subsets drawn from them."""

import hashlib
import logging
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from opsin.data.cache.image_store import (
    OnBadImage,
    Store,
    bytes_to_write,
    open_store,
    store_key,
    use_digest_cache,
)
from opsin.data.cache.uncached_images import UncachedStore
from opsin.data.contrast import warn_lost_contrast
from opsin.data.fit import Interpolation, Resize
from opsin.data.shards.prefetch import check_folds
from opsin.data.shards.sharded_images import ShardImages
from opsin.data.shards.sharded_store import ShardStore
from opsin.data.source import Source
from opsin.data.splitting import SplitOptions, split_train
from opsin.data.subset import Subset
from opsin.data.types import Indices, Split
from opsin.errors import UserError

_LOG = logging.getLogger(__name__)
_MOST_WARNINGS = 20  # classes of a split that are named one by one
_FEW = 3  # images of a class in a split below which a warning is worth its line


class ImageSplits:
    """Opens the stores of a dataset's splits when they are needed, and carves the missing splits.

    Args:
        source: The dataset.
        size: Height and width of the images, in pixels.
        resize: Resize method, see `Fit`.
        interpolation: Filter of the resizing.
        options: Options for splitting the training images.
        cache_dir: Folder of all image stores.
        on_bad_image: Whether images that cannot be decoded are skipped or refused.

    Attributes:
        subsets: The splits opened so far.
        keeps_decoded: Whether decoded images are saved on the disk. Set to False before the first split is opened if
            each image is read only once.
    """

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        resize: Resize,
        interpolation: Interpolation,
        options: SplitOptions,
        cache_dir: Path,
        on_bad_image: OnBadImage,
    ) -> None:
        self.subsets: dict[Split, Subset] = {}
        self.keeps_decoded = True
        self._source = source
        self._fit = (size, resize, interpolation)
        self._options = options
        self._cache_dir = cache_dir
        self._on_bad_image: OnBadImage = on_bad_image
        self._stores: dict[Split, Store] = {}
        self._warned: set[Split] = set()
        for images in source.splits.values():
            use_digest_cache(images, cache_dir)

    def store(self, split: Split) -> Store:
        """Return the store of a split that the source provides; its images are decoded now if needed."""
        if split not in self._stores:
            images = self._source.splits[split]
            if isinstance(images, ShardImages):
                store: Store = ShardStore(images, *self._fit)
            elif self.keeps_decoded:
                store = open_store(
                    images,
                    *self._fit,
                    cache_dir=self._cache_dir,
                    on_bad_image=self._on_bad_image,
                    reserved=self._bytes_to_write(split),
                )
            else:
                store = UncachedStore(images, *self._fit, on_bad_image=self._on_bad_image)
            self._stores[split] = store
        return self._stores[split]

    def _bytes_to_write(self, opened: Split) -> int:
        """Return the bytes of the stores that are still to be built after that of a split, such as that of test."""
        later = [split for split in self._source.splits if split not in self._stores and split != opened]
        return sum(bytes_to_write(self._source.splits[split], *self._fit, self._cache_dir) for split in later)

    def open(self, splits: Sequence[Split]) -> None:
        """Open the subsets that can be drawn from some splits of the source.

        Raises:
            UserError: Train has no image of some class, or the options do not fit the dataset.
        """
        if "train" in splits and "train" not in self.subsets:
            subsets = self.divided(self._options)
            for split, subset in subsets.items():
                self._add(split, subset)
            if "test" in self._source.splits:  # the labels are known before the images are read
                self._warn("test", self._counts(self._source.splits["test"].targets))
            check_folds(subsets["train"], self._options)
            warn_lost_contrast(self._source.name, subsets["train"])
        if "test" in splits and "test" not in self.subsets:
            self._add("test", Subset.whole(self.store("test")))

    def divided(self, options: SplitOptions) -> dict[Split, Subset]:
        """Return the splits that some options draw from the source's train and val."""
        return split_train(
            self.store("train"),
            self.store("val") if "val" in self._source.splits else None,
            has_test="test" in self._source.splits,
            options=options,
            classes=self._source.classes,
        )

    @property
    def bad_images(self) -> int:
        """Number of images that cannot be decoded, in the stores opened so far."""
        return sum(len(store.bad) for store in self._stores.values())

    @property
    def bad_image_reports(self) -> list[str]:
        """Files that list the images that cannot be decoded."""
        return [str(store.report) for store in self._stores.values() if store.bad and store.report]

    def dataset(self) -> str:
        """Return one digest of all images of the source and their classes, independent of size and options."""
        digest = hashlib.blake2b("\0".join(self._source.classes).encode(), digest_size=16)
        for split, images in sorted(self._source.splits.items()):
            digest.update(f"{split} {images.fingerprint}".encode())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Return one digest of the pixels of all splits, their targets, their order and how they are split."""
        digest = hashlib.blake2b("\0".join(self._source.classes).encode(), digest_size=16)
        for split in sorted(self._source.splits):
            key = store_key(self._source.splits[split], *self._fit)
            digest.update(f"{split} {key}".encode())
        for split in ("train", "val"):
            digest.update(self.subsets[split].index.tobytes())
            for store in self.subsets[split].stores:
                digest.update(store.kept.tobytes())
        return digest.hexdigest()

    def _add(self, split: Split, subset: Subset) -> None:
        """Add a split. Train must have images of every class; the others may lack some, with a warning each."""
        counts = self._counts(subset.targets)
        missing = [name for name, count in counts.items() if not count]
        reports = [store.report for store in subset.stores if store.report and store.bad]
        bad = "".join(f" Some images cannot be decoded, see {report}." for report in reports)
        if missing and split == "train":
            names = ", ".join(f"'{name}'" for name in missing)
            raise UserError(f"'{self._source.name}' has no {split} image of class {names}.{bad}")
        self._warn(split, counts, bad, self._damaged(subset))
        self.subsets[split] = subset

    def _damaged(self, subset: Subset) -> set[str]:
        """Return the classes of the images that cannot be decoded in the stores of a subset."""
        lost = [np.delete(store.images.targets, store.kept) for store in subset.stores if store.bad]
        return {self._source.classes[target] for targets in lost for target in targets.tolist()}

    def _counts(self, targets: Indices) -> dict[str, int]:
        """Return the number of images of each class."""
        counts = np.bincount(targets, minlength=len(self._source.classes))
        return dict(zip(self._source.classes, counts.tolist(), strict=True))

    def _warn(self, split: Split, counts: Mapping[str, int], bad: str = "", damaged: Container[str] = ()) -> None:
        """Log once per split which classes it lacks, and of which it has too few images to measure them.

        Args:
            split: The split.
            counts: Number of its images of each class.
            bad: Text on images that cannot be decoded.
            damaged: The classes of these images.
        """
        if split in self._warned:
            return
        self._warned.add(split)
        few = sorted(((name, count) for name, count in counts.items() if count < _FEW), key=lambda pair: pair[1])
        for name, count in few[:_MOST_WARNINGS]:
            effect = f"its {split} recall is undefined, and averages over the classes exclude it"
            if count:
                effect = "too few to learn it" if split == "train" else f"its {split} recall is not reliable"
            number = f"only {count} {split} image{'s' * (count > 1)}" if count else f"no {split} image"
            cause = bad if name in damaged else ""
            _LOG.warning("%s has %s of class '%s': %s.%s", self._source.name, number, name, effect, cause)
        if len(few) > _MOST_WARNINGS:
            more = len(few) - _MOST_WARNINGS
            _LOG.warning("%s has no or few %s images of %d more classes", self._source.name, split, more)
