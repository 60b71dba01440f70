"""The images of a split in shards, and the sharded dataset that all splits share."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from opsin.data.decode import decode_image
from opsin.data.fit import Fit, fit_image
from opsin.data.shards.index import FitOptions, Index, Shard, SplitTable, read_table
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.shard_cache import ShardCache
from opsin.data.shards.storage import Storage
from opsin.data.types import Channels, Indices, Split
from opsin.errors import UserError
from opsin.visualization.images import Pixels


class ShardedDataset:
    """A dataset in shards, shared by all its splits.

    Args:
        storage: Storage of the shards.
        index: Facts of the dataset and its shards.
        cache_dir: Folder for downloaded shards.
        cache_bytes: Maximum size of downloaded shards.
        window: Number of shards whose images are mixed in training.
        workers: Number of decoding threads.
    """

    def __init__(
        self, storage: Storage, index: Index, cache_dir: Path, cache_bytes: int, window: int, workers: int
    ) -> None:
        self.storage = storage
        self.index = index
        self.window = window
        self.cache = ShardCache(storage, cache_dir, cache_bytes)
        self._workers = workers
        self._arguments = (storage, index, cache_dir, cache_bytes, window, workers)

    def __reduce__(self) -> tuple[type["ShardedDataset"], tuple[Storage, Index, Path, int, int, int]]:
        return ShardedDataset, self._arguments

    @cached_property
    def decoders(self) -> ThreadPoolExecutor:
        """The decoding threads; Pillow releases the GIL while it decodes."""
        return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")


class ShardImages:
    """The images of one split of a sharded dataset.

    Args:
        dataset: The dataset.
        split: The split.

    Attributes:
        table: Class, source row and shard row of each image.
    """

    def __init__(self, dataset: ShardedDataset, split: Split) -> None:
        self.dataset = dataset
        self.split: Split = split
        self.facts = dataset.index.splits[split]
        self.table: SplitTable = read_table(dataset.storage, split, self.facts)
        if len(self) and self.table.targets.max() >= len(dataset.index.classes):
            raise UserError(
                f"{dataset.storage} names {len(dataset.index.classes)} classes, but its images have more; "
                "write the shards again."
            )
        self._starts = np.cumsum([0, *(shard.images for shard in self.facts.shards)])

    def __len__(self) -> int:
        """The number of images."""
        return len(self.table.targets)

    def __reduce__(self) -> tuple[type["ShardImages"], tuple[ShardedDataset, Split]]:
        return ShardImages, (self.dataset, self.split)

    @property
    def targets(self) -> Indices:
        """Class indices ``(N,)``, int64."""
        return self.table.targets

    @property
    def channels(self) -> Channels:
        """Channels of the images."""
        return self.dataset.index.channels

    @property
    def fingerprint(self) -> str:
        """Digest of the split's index, which holds the digest of every shard."""
        return self.dataset.index.fingerprint(self.split)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards of the split, in order."""
        return self.facts.shards

    def shard_of(self, rows: Indices) -> Indices:
        """Return the number ``(B,)`` of the shard that holds each of some images ``(B,)``."""
        return np.searchsorted(self._starts, self.table.shard_rows[rows], side="right") - 1

    def locate(self, index: int) -> str:
        """Return the shard and the row of an image in it, from 0."""
        shard, row = self._find(index)
        return f"{self.dataset.storage}/{shard.file}, image {row}"

    def read(self, index: int, fit: Fit | None = None) -> Pixels:
        """Return one image, ``(H, W, C)``; raises `BadImage`."""
        shard, row = self._find(index)
        return self.decode(self.dataset.cache.take(shard), row, fit)

    def for_each(self, rows: Indices, do: Callable[[int, OpenShard, int], None]) -> None:
        """Call `do(place in rows, shard, row in the shard)` for some rows ``(B,)``, shard after shard."""
        numbers = self.shard_of(rows)
        shard_rows = (self.table.shard_rows[rows] - self._starts[numbers]).tolist()
        last, shard = -1, None
        for at in np.argsort(numbers, kind="stable").tolist():
            if numbers[at] != last or shard is None:
                last = numbers[at]
                shard = self.dataset.cache.take(self.shards[last])
            do(at, shard, shard_rows[at])

    def check_fit(self, fit: Fit) -> None:
        """Refuse to resize images that were resized when the shards were written: two resizings give other pixels.

        Raises:
            UserError: The images in the shards were resized to another size or in another way.
        """
        index = self.dataset.index
        if index.fit is None or (index.size, index.fit) == (fit.size, FitOptions(fit.resize, fit.interpolation)):
            return
        height, width = index.size
        size = height if height == width else f"[{height},{width}]"
        options = (f"image_size={size}", f"resize={index.fit.resize}", f"interpolation={index.fit.interpolation}")
        raise UserError(
            f"The images in the shards of {self.dataset.storage} were resized to {height}x{width} with "
            f"resize={index.fit.resize}, interpolation={index.fit.interpolation}, but {fit.size[0]}x{fit.size[1]} with "
            f"{fit.resize}, {fit.interpolation} are needed. A second resizing would give other pixels than the "
            f"original images. Set {' '.join(f'datamodule.{option}' for option in options)}, or write the shards again "
            "with the options of this run or with --encoding original."
        )

    def decode(self, shard: OpenShard, row: int, fit: Fit | None) -> Pixels:
        """Return one image of an open shard, ``(H, W, C)``; raises `BadImage`, and `UserError` as in `check_fit`."""
        index = self.dataset.index
        if fit:
            self.check_fit(fit)
        if index.encoding == "raw":
            pixels = np.empty((*index.size, index.channels), np.uint8)
            shard.pixels(row, pixels)
            return fit_image(pixels, *fit) if fit else pixels
        return decode_image(shard.image(row), index.channels, fit)

    def _find(self, index: int) -> tuple[Shard, int]:
        number = int(self.shard_of(np.array([index]))[0])
        return self.shards[number], int(self.table.shard_rows[index] - self._starts[number])


def shard_schedule(shards: Sequence[Indices]) -> tuple[Indices, Indices, Indices]:
    """Return the shards that a series of batches needs, and the first and the last batch that needs each.

    Args:
        shards: For each batch the numbers ``(B,)`` of its images' shards.

    Returns:
        Shard numbers ``(S,)`` in the order of first use, first batch ``(S,)`` and last batch ``(S,)``.
    """
    if not shards:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    flat = np.concatenate(shards)
    steps = np.repeat(np.arange(len(shards)), [len(batch) for batch in shards])
    numbers, first = np.unique(flat, return_index=True)
    _, last = np.unique(flat[::-1], return_index=True)
    first, last = steps[first], steps[::-1][last]
    order = np.argsort(first, kind="stable")
    return numbers[order], first[order], last[order]
