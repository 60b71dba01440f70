"""The images of shards at the size at which they are served, taken by row as those of any store."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.image_store import Store, store_key
from opsin.data.decode import BadImage
from opsin.data.preprocessing import Interpolation, Resize, fit_image
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.shard_cache import AHEAD
from opsin.data.shards.sharded_images import ShardImages, itinerary
from opsin.errors import UserError

Indices = NDArray[np.int64]


class ShardStore(Store):
    """The images of one split in shards; nothing is written but the shards that pass through the cache.

    Args:
        images: The images.
        size: Height and width to serve.
        resize: How they are brought there, unless they were when they were written.
        interpolation: Likewise.

    Raises:
        UserError: They were written at this size, and brought there in another way.
    """

    images: ShardImages
    at_hand = False

    def __init__(
        self, images: ShardImages, size: tuple[int, int], resize: Resize, interpolation: Interpolation
    ) -> None:
        index = images.library.index
        if (
            index.fit is not None
            and index.size == size
            and (index.fit.resize, index.fit.interpolation)
            != (
                resize,
                interpolation,
            )
        ):
            raise UserError(
                f"The shards of {images.library.place} hold images that were brought to {size[0]}x{size[1]} by "
                f"resize={index.fit.resize}, interpolation={index.fit.interpolation}, and {resize}, {interpolation} is "
                f"asked for: set datamodule.resize={index.fit.resize} and "
                f"datamodule.interpolation={index.fit.interpolation}, or write them so."
            )
        self.images = images
        self.fingerprint = store_key(images, size, resize, interpolation)
        self.targets = images.targets
        self.kept = np.arange(len(images))
        self.shape = (*size, index.channels)
        self.origin = images.facts.origin
        self._fit = (size, resize, interpolation)
        self._raw = index.encoding == "raw" and index.size == size

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """A new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``, decoded by several threads.

        Raises:
            UserError: A shard is missing or torn, or holds what is no image.
        """
        taken = np.empty((len(rows), *self.shape), np.uint8)
        if self._raw:
            self.images.each(rows, lambda at, shard, slot: shard.pixels(slot, taken[at]))
            return taken
        waiting: list[Any] = []

        def decode(at: int, shard: OpenShard, slot: int) -> None:
            taken[at] = fit_image(self.images.decode(shard, slot), *self._fit)

        pool = self.images.library.decoders
        self.images.each(rows, lambda *found: waiting.append((found[0], pool.submit(decode, *found))))
        for at, future in waiting:
            try:
                future.result()
            except BadImage as error:
                raise UserError(f"{self.locate(int(rows[at]))} cannot be decoded: {error}. Write it anew.") from error
        return taken

    def identify(self, rows: Indices) -> bytes:
        """As the store would whose images the shards were written from."""
        return self.images.facts.original.encode() + self.images.rows.numbers[rows].tobytes()

    def as_they_lie(self, rows: Indices) -> Indices:
        """Some rows, shard after shard."""
        return rows[np.argsort(self.images.rows.places[rows], kind="stable")]

    def follow(self, plan: Sequence[Indices]) -> Callable[[int], None]:
        """Have the shards there when they are needed.

        Args:
            plan: The rows of every batch to come.

        Returns:
            What is to be called with the number of each batch before it is taken.
        """
        numbers, first, last = itinerary([self.images.shard_of(rows) for rows in plan])
        shelf, shards = self.images.library.shelf, self.images.shards
        expected: set[int] = set()

        def come_to(step: int) -> None:
            nonlocal expected
            if step >= len(plan):
                shelf.expect(self, ())
                return
            coming = int(np.searchsorted(first, step, side="right")) + AHEAD
            here = numbers[:coming][last[:coming] >= step].tolist()
            if set(here) != expected:  # most batches need what the one before has needed
                expected = set(here)
                shelf.expect(self, [shards[number] for number in here])

        return come_to
