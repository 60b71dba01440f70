"""The images of shards at the size of training, read by row like those of any store."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opsin.data.cache.image_store import Store, store_key
from opsin.data.fit import Fit, Interpolation, Resize
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.shard_cache import AHEAD
from opsin.data.shards.sharded_images import ShardImages, shard_schedule
from opsin.data.types import BadImage, Indices
from opsin.errors import UserError
from opsin.visualization.images import Pixels


class ShardStore(Store):
    """The images of one split in shards; nothing is written to the disk except shards in the cache.

    Args:
        images: The images.
        size: Height and width of the images that `take` returns.
        resize: Resize method.
        interpolation: Filter of the resizing.

    Raises:
        UserError: The images in the shards were resized to another size or in another way.
    """

    images: ShardImages
    random_access = False

    def __init__(
        self, images: ShardImages, size: tuple[int, int], resize: Resize, interpolation: Interpolation
    ) -> None:
        index = images.dataset.index
        self._fit = Fit(size, resize, interpolation)
        images.check_fit(self._fit)
        self.images = images
        self.fingerprint = store_key(images, size, resize, interpolation)
        self.targets = images.targets
        self.kept = np.arange(len(images))
        self.shape = (*size, index.channels)
        self.origin = images.facts.origin
        self._raw = index.encoding == "raw" and index.size == size

    def take(self, rows: Indices) -> Pixels:
        """Return a new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``, decoded by several threads.

        Raises:
            UserError: A shard is missing or corrupt, or an image in it cannot be decoded.
        """
        taken = np.empty((len(rows), *self.shape), np.uint8)
        if self._raw:
            self.images.for_each(rows, lambda at, shard, row: shard.pixels(row, taken[at]))
            return taken
        waiting: list[Any] = []

        def decode(at: int, shard: OpenShard, row: int) -> None:
            taken[at] = self.images.decode(shard, row, self._fit)

        pool = self.images.dataset.decoders
        self.images.for_each(rows, lambda *found: waiting.append((found[0], pool.submit(decode, *found))))
        for at, future in waiting:
            try:
                future.result()
            except BadImage as error:
                raise UserError(
                    f"{self.locate(int(rows[at]))} cannot be decoded: {error}. Write the shards again."
                ) from error
        return taken

    def numbered(self, rows: Indices) -> tuple[str, Indices]:
        """Return the same as the store the shards were written from."""
        return self.images.facts.source_fingerprint, self.images.table.source_rows[rows]

    def in_reading_order(self, rows: Indices) -> Indices:
        """Return some rows ordered by shard."""
        return rows[np.argsort(self.images.table.shard_rows[rows], kind="stable")]

    def prefetch(self, plan: Sequence[Indices]) -> Callable[[int], None]:
        """Plan the prefetching of shards for a series of batches.

        Args:
            plan: The rows of every batch.

        Returns:
            A function to call with the number of each batch before it is read, and with their count at the end.
        """
        numbers, first, last = shard_schedule([self.images.shard_of(rows) for rows in plan])
        cache, shards = self.images.dataset.cache, self.images.shards
        expected: set[int] = set()

        def before_batch(step: int) -> None:
            nonlocal expected
            if step >= len(plan):
                cache.expect(self, ())
                return
            upcoming = int(np.searchsorted(first, step, side="right")) + AHEAD
            needed = numbers[:upcoming][last[:upcoming] >= step].tolist()
            if set(needed) != expected:  # most batches need the shards of the batch before
                expected = set(needed)
                cache.expect(self, [shards[number] for number in needed])

        return before_batch
