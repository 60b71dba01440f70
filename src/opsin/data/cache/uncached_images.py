"""Images that are decoded whenever they are read, and kept nowhere: for who reads each a few times, as a writer."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from opsin.data.cache.files import progress
from opsin.data.cache.image_store import OnBadImage, Store, decode_again, judge, store_key
from opsin.data.decode import BadImage
from opsin.data.preprocessing import Interpolation, Resize
from opsin.data.source import ArrayImages, Images

Indices = NDArray[np.int64]

_LOG = logging.getLogger(__name__)
_BLOCK = 512  # images of which threads look through one


class UncachedStore(Store):
    """The images of one `Images` at a size, decoded again whenever they are read.

    All are decoded once before, to learn which of them can be: those that cannot are left out, as in a store on the
    disk, so that both divide their images alike.

    Args:
        images: The images.
        size: Height and width to serve.
        resize: How they are brought there.
        interpolation: Likewise.
        on_bad_image: Leave out images that cannot be decoded, or refuse them all in one message.

    Raises:
        UserError: There is a bad image and `on_bad_image` is `raise`, or no good one.
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
        self.fingerprint = store_key(images, size, resize, interpolation)
        self._fit = (size, resize, interpolation)
        found = {} if isinstance(images, ArrayImages) else _bad_images(images)
        self.bad = [(images.locate(index), reason) for index, reason in found.items()]
        self.kept = np.setdiff1d(np.arange(len(images)), np.array(list(found), np.int64))
        self.targets = images.targets[self.kept]
        judge(self, on_bad_image)
        self.shape = (*size, images.read(int(self.kept[0])).shape[2])

    def take(self, rows: Indices) -> NDArray[np.uint8]:
        """A new array ``(B, H, W, C)`` of the pixels of some images ``(B,)``, decoded by several threads."""
        return decode_again(self, rows, *self._fit)


def _bad_images(images: Images) -> dict[int, str]:
    """The number of each image that cannot be decoded, and why."""

    def reason(index: int) -> str | None:
        try:
            images.read(index)
        except BadImage as error:
            return str(error)
        return None

    bad: dict[int, str] = {}
    with ThreadPoolExecutor(thread_name_prefix="decode") as pool, progress(len(images), "looking through") as advance:
        for start in range(0, len(images), _BLOCK):
            block = range(start, min(start + _BLOCK, len(images)))
            bad |= {index: why for index, why in zip(block, pool.map(reason, block), strict=True) if why is not None}
            advance(len(block))
    for index, why in bad.items():
        _LOG.warning("left out: %s: %s", images.locate(index), why)
    return bad
