"""The images of a split that lie in shards, and what all splits of a dataset share to read them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.data.decode import decode_image
from opsin.data.shards.index import Index, Rows, Shard, read_rows
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.shard_cache import ShardCache
from opsin.data.shards.storage import Storage
from opsin.data.source import Split

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class ShardedDataset:
    """What all splits of a dataset in shards share.

    Args:
        place: Where the shards lie.
        index: What is known of them.
        cache_dir: Holds downloaded shards.
        cache_bytes: Of them at most.
        window: Shards whose images are mixed in training.
        workers: Threads that decode.
    """

    def __init__(
        self, place: Storage, index: Index, cache_dir: Path, cache_bytes: int, window: int, workers: int
    ) -> None:
        self.place = place
        self.index = index
        self.window = window
        self.shelf = ShardCache(place, cache_dir, cache_bytes)
        self._workers = workers
        self._arguments = (place, index, cache_dir, cache_bytes, window, workers)

    def __reduce__(self) -> tuple[type["ShardedDataset"], tuple[Storage, Index, Path, int, int, int]]:
        return ShardedDataset, self._arguments

    @cached_property
    def decoders(self) -> ThreadPoolExecutor:
        """Pillow lets go of the interpreter's lock while it works, so threads will do."""
        return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")


class ShardImages:
    """The images of one split, as a source gives them.

    Args:
        library: What it shares with the others.
        split: Which.

    Attributes:
        rows: What is known of each image.
    """

    def __init__(self, library: ShardedDataset, split: Split) -> None:
        self.library = library
        self.split: Split = split
        self.facts = library.index.splits[split]
        self.rows: Rows = read_rows(library.place, split, self.facts)
        self._starts = np.cumsum([0, *(shard.images for shard in self.facts.shards)])

    def __len__(self) -> int:
        """The number of images."""
        return len(self.rows.targets)

    def __reduce__(self) -> tuple[type["ShardImages"], tuple[ShardedDataset, Split]]:
        return ShardImages, (self.library, self.split)

    @property
    def targets(self) -> Indices:
        """Class of each image ``(N,)``, int64."""
        return self.rows.targets

    @property
    def fingerprint(self) -> str:
        """Digest of the index, which holds that of every shard."""
        return self.library.index.fingerprint(self.split)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All of them, in order."""
        return self.facts.shards

    def shard_of(self, rows: Indices) -> Indices:
        """The number ``(B,)`` of the shard that holds each of some images."""
        return np.searchsorted(self._starts, self.rows.places[rows], side="right") - 1

    def locate(self, index: int) -> str:
        """The shard and the number of the image in it, from 0."""
        shard, slot = self._find(index)
        return f"{self.library.place}/{shard.file}, image {slot}"

    def read(self, index: int) -> Pixels:
        """One image, ``(H, W, C)``; raises `BadImage`."""
        shard, slot = self._find(index)
        return self.decode(self.library.shelf.take(shard), slot)

    def each(self, rows: Indices, do: Callable[[int, OpenShard, int], None]) -> None:
        """Call `do` with the number of each of some rows, its shard and its place there, shard after shard."""
        numbers = self.shard_of(rows)
        slots = (self.rows.places[rows] - self._starts[numbers]).tolist()
        last, shard = -1, None
        for at in np.argsort(numbers, kind="stable").tolist():
            if numbers[at] != last or shard is None:
                last = numbers[at]
                shard = self.library.shelf.take(self.shards[last])
            do(at, shard, slots[at])

    def decode(self, shard: OpenShard, slot: int) -> Pixels:
        """One image of an open shard."""
        index = self.library.index
        if index.encoding == "raw":
            pixels = np.empty((*index.size, index.channels), np.uint8)
            shard.pixels(slot, pixels)
            return pixels
        return decode_image(shard.image(slot), index.channels)

    def _find(self, index: int) -> tuple[Shard, int]:
        number = int(self.shard_of(np.array([index]))[0])
        return self.shards[number], int(self.rows.places[index] - self._starts[number])


def itinerary(shards: Sequence[Indices]) -> tuple[Indices, Indices, Indices]:
    """Which shards a series of batches needs, and from when to when.

    Args:
        shards: Of each batch the numbers ``(B,)`` of its images' shards.

    Returns:
        The numbers of the shards in the order in which they are needed first, and of each the number of the first and
        of the last batch that needs it.
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
