"""Find datasets that lose their contrast when they are decoded by the rules of `opsin.data.decode`.

Two kinds of files do: drawings whose shapes are only in their transparency, which is dropped, and images of 16 bits or
floats that use a small part of their range, which is scaled to 8 bits as a whole.
"""

import io
import logging
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.data.cache.image_store import Store
from opsin.data.decode import FORMATS, GRAY_OR_RGB, band_array, decode_image
from opsin.data.image_memory import image_memory
from opsin.data.source import EncodedImages
from opsin.data.splitting import stratified_sample
from opsin.data.subset import Subset
from opsin.data.types import BadImage

_LOG = logging.getLogger(__name__)

_SAMPLE = 64  # images that are checked
_SAMPLE_BYTES = 2**26  # of their decoded pixels
_PNG = b"\x89PNG\r\n\x1a\n"

FLAT = 32
"""An image is flat if its pixels span fewer of the 256 levels."""

Loss = Literal["transparency", "depth"]

_REASONS: dict[Loss, str] = {
    "transparency": "their shapes are only in the transparency (alpha), which is dropped. Paint the images on a "
    "background, or read alpha as a channel with datamodule.channels=4 (2 for gray images)",
    "depth": "they use a small part of the range of 16 bits (or of floats in 0..1), and the whole range is scaled to 8 "
    "bits. Scale the values in the files to the whole range",
}


def warn_lost_contrast(name: str, subset: Subset) -> None:
    """Log a warning if many images of a dataset, or of one class, lose their contrast when they are decoded.

    Looks at the decoded pixels of a few images, and reads the files of those that are flat. Images in shards are not
    read: they were checked when the shards were written.

    Args:
        name: Name of the dataset.
        subset: Its training images.
    """
    if not all(store.random_access for store in subset.stores):
        return
    count = min(len(subset), _SAMPLE, max(8, _SAMPLE_BYTES // int(np.prod(subset.stores[0].shape))))
    chosen = stratified_sample(subset.targets, count, seed=0)
    losses = [_loss(*subset.find(position)) for position in chosen.tolist()]
    for loss, reason in _REASONS.items():
        lost = np.array([found == loss for found in losses])
        if _is_frequent(lost, subset.targets[chosen]):
            _LOG.warning(
                "%s: %d of %d sampled training images lose their contrast when they are decoded: %s",
                name,
                lost.sum(),
                count,
                reason,
            )


def _is_frequent(lost: NDArray[np.bool_], targets: NDArray[np.int64]) -> bool:
    """Return whether an eighth of the images is lost, or half of a class of at least three."""
    share = [lost[targets == value].mean() for value in np.unique(targets) if (targets == value).sum() >= 3]
    return bool(lost.any()) and (lost.mean() >= 1 / 8 or max(share, default=0) >= 1 / 2)


def _loss(store: Store, row: int) -> Loss | None:
    """Return how an image of a store loses its contrast; None if it does not."""
    images = store.images
    if not isinstance(images, EncodedImages) or not _is_flat(store.take(np.array([row]))[0]):
        return None
    try:
        return lost_contrast(images.encoded(int(store.kept[row])), images.channels)
    except (BadImage, OSError):  # a store may outlive its files
        return None


def lost_contrast(data: bytes, channels: int) -> Loss | None:
    """Return how an encoded image loses its contrast when it is decoded; None if it does not.

    Raises:
        BadImage: It cannot be decoded.
    """
    pixels = decode_image(data, channels)
    if not _is_flat(pixels):
        return None
    if channels not in GRAY_OR_RGB:
        return "depth" if _array_has_more_levels(data, pixels) else None
    with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
        if image.mode.startswith("I") or image.mode == "F":
            return "depth" if _has_more_levels(np.asarray(image), pixels) else None
        if image.has_transparency_data and np.ptp(np.asarray(image.convert("RGBA"))[..., 3]) >= FLAT:
            return "transparency"
    return "depth" if data[:8] == _PNG and data[24] == 16 else None  # Pillow keeps only the upper bits of color


def _is_flat(pixels: NDArray[np.uint8]) -> bool:
    """Return whether no channel of an image ``(H, W, C)`` spans `FLAT` levels."""
    return bool(np.ptp(pixels, axis=(0, 1)).max() < FLAT)


def _array_has_more_levels(data: bytes, pixels: NDArray[np.uint8]) -> bool:
    with image_memory.scope():
        values = band_array(io.BytesIO(data), pixels.shape[2])
        return values is not None and _has_more_levels(values, pixels)


def _has_more_levels(values: NDArray[Any], pixels: NDArray[np.uint8]) -> bool:
    """Return whether values have many times the levels of the pixels that they are scaled to."""
    return values.dtype != np.uint8 and len(np.unique(values)) >= 4 * len(np.unique(pixels))
