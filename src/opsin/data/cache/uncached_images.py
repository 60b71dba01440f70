"""Store without a cache: decodes on every read. Used by the shard writer."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.image_store import OnBadImage, Store, check_images, decode_rows, store_key
from opsin.data.decode import BadImage
from opsin.data.preprocessing import Interpolation, Resize
from opsin.data.progress import progress
from opsin.data.source import ArrayImages, Images
from opsin.data.types import Indices

_LOG = logging.getLogger(__name__)
_BLOCK = 512  # images that are checked together


class UncachedStore(Store):
    """The images of one `Images` at a size, decoded on every read.

    All images are decoded once at the start, to find those that cannot be: they are left out, as in a store on the
    disk, so that both are split alike.

    Args:
        images: The images.
        size: Height and width of the images that `take` returns.
        resize: Resize method, see `fit_image`.
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
        self._fit = (size, resize, interpolation)
        found = {} if isinstance(images, ArrayImages) else _bad_images(images)
        self.bad = [(images.locate(index), reason) for index, reason in found.items()]
        self.kept = np.setdiff1d(np.arange(len(images)), np.array(list(found), np.int64))
        self.targets = images.targets[self.kept]
        self.fingerprint = store_key(images, size, resize, interpolation)
        check_images(self, on_bad_image)
        self.shape = (*size, images.read(int(self.kept[0])).shape[2])

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """Return a new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``, decoded by several threads."""
        return decode_rows(self, rows, *self._fit)


def _bad_images(images: Images) -> dict[int, str]:
    """Return the number of each image that cannot be decoded, and why."""

    def reason(index: int) -> str | None:
        try:
            images.read(index)
        except BadImage as error:
            return str(error)
        return None

    bad: dict[int, str] = {}
    with ThreadPoolExecutor(thread_name_prefix="decode") as pool, progress(len(images), "checking images") as advance:
        for start in range(0, len(images), _BLOCK):
            block = range(start, min(start + _BLOCK, len(images)))
            bad |= {index: why for index, why in zip(block, pool.map(reason, block), strict=True) if why is not None}
            advance(len(block))
    for index, why in bad.items():
        _LOG.warning("left out: %s: %s", images.locate(index), why)
    return bad
