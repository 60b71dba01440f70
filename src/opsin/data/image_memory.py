"""Memory for decoding images: estimated from the header of an image, and limited over all threads."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image

LIMIT = 768 * 10**6
"""Bytes that one image may take while it is decoded and resized; an image that needs more is refused."""

SHARED_LIMIT = 512 * 10**6
"""Bytes for all images that are decoded at the same moment, unless one of them needs more and is decoded alone."""

_LARGE = 32 * 2**20
"""Bytes of an image after which freed memory is returned to the system."""

_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel of the modes of Pillow; 4 for all others."""

_DECODER_BYTES = {"WEBP": 8, "AVIF": 8, "JPEG2000": 24, "TIFF": 4, "GIF": 4}
"""Bytes per pixel that the decoder of a format needs in addition; 0 for formats that are decoded row by row."""

_PROGRESSIVE_BYTES = 6
"""Bytes per pixel of the coefficients of a progressive JPEG, which the decoder keeps until the end."""


class MemoryLimit:
    """A limit of bytes that threads reserve before they use them, and wait for.

    Args:
        limit: Number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Hold this thread's reservation until its outermost scope ends, so that it also covers the resize."""
        depth = getattr(self._own, "depth", 0)
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            if not depth:
                self._release()

    def reserve(self, count: int) -> None:
        """Release what this thread holds, wait until `count` bytes are free (at most the limit), and reserve them.

        A thread that waits holds nothing, so threads never wait for each other.
        """
        self._release()
        with self._changed:
            self._changed.wait_for(lambda: self._used + min(count, self._limit) <= self._limit)
            self._used += min(count, self._limit)
        self._own.held = min(count, self._limit)

    def _release(self) -> None:
        held = getattr(self._own, "held", 0)
        if held >= _LARGE:
            _return_freed_memory()
        with self._changed:
            self._used -= held
            self._own.held = 0
            self._changed.notify_all()


def _return_freed_memory() -> None:
    """Return freed memory to the system: the GNU C library keeps some for each thread, in all more than was used."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_malloc_trim() -> Callable[[int], int] | None:
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows
        return None


_malloc_trim = _find_malloc_trim()

image_memory = MemoryLimit(SHARED_LIMIT)
"""The memory of all images that are being decoded in this process."""


def decoding_bytes(image: Image.Image, channels: int) -> int:
    """Estimate the peak of memory of decoding and resizing an opened image, from its header.

    Args:
        image: The image, of which only the header has been read.
        channels: Channels of the pixels that are returned.
    """
    stored = _PILLOW_BYTES.get(image.mode, 4)
    converted = 1 if channels == 1 else 4
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive") or image.info.get("progression"):
        decoder = _PROGRESSIVE_BYTES
    is_converted = image.mode != ("L" if channels == 1 else "RGB")
    copies = is_converted + _is_turned(image) + (stored == 2 or image.mode in ("I", "F"))  # the last is an array
    return image.width * image.height * max(stored + decoder, copies * stored + converted + channels)


def _is_turned(image: Image.Image) -> bool:
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode the image to look behind it
        return False
    try:
        return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # damaged EXIF
        return False
