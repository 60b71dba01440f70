"""Store without a cache: decodes on every read. Used by the shard writer."""

import logging

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.image_store import OnBadImage, Store, check_images, decode_rows, store_key
from opsin.data.cache.image_store_builder import decode_blocks
from opsin.data.fit import Fit, Interpolation, Resize
from opsin.data.progress import progress
from opsin.data.source import ArrayImages, Images
from opsin.data.types import Indices

_LOG = logging.getLogger(__name__)


class UncachedStore(Store):
    """The images of one `Images` at a size, decoded on every read.

    All images are decoded once at the start, to find those that cannot be decoded. They are left out, as in a store on
    the disk, so that both are split in the same way.

    Args:
        images: The images.
        size: Height and width of the images that `take` returns.
        resize: Resize method, see `Fit`.
        interpolation: Filter of the resizing.
        on_bad_image: `skip` leaves out images that cannot be decoded, `raise` names them all in one error.

    Raises:
        UserError: An image cannot be decoded and `on_bad_image` is `raise`, or none can be decoded.
    """

    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        resize: Resize,
        interpolation: Interpolation,
        on_bad_image: OnBadImage = "skip",
    ) -> None:
        self.images = images
        self._fit = Fit(size, resize, interpolation)
        bad = [] if isinstance(images, ArrayImages) else _bad_images(images, self._fit)
        self.bad = [(location, reason) for _, location, reason in bad]
        self.kept = np.setdiff1d(np.arange(len(images)), np.array([index for index, _, _ in bad], np.int64))
        self.targets = images.targets[self.kept]
        self.fingerprint = store_key(images, size, resize, interpolation)
        check_images(self, on_bad_image)
        self.shape = (*size, images.channels)

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """Return a new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``, decoded by several threads."""
        return decode_rows(self, rows, self._fit)


def _bad_images(images: Images, fit: Fit) -> list[tuple[int, str, str]]:
    """Return the number, location and reason of each image that cannot be decoded."""
    bad: list[tuple[int, str, str]] = []
    with progress(len(images), "checking images") as advance:
        for block in decode_blocks(images, fit):
            bad += block.bad
            advance(len(block.kept) + len(block.bad))
    for _, location, reason in bad:
        _LOG.warning("left out: %s: %s", location, reason)
    return bad
