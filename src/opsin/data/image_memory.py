"""Memory for decoding images: estimated from the header of an image, and limited over all threads."""

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from opsin.data.orientation import turn_of

LIMIT = 768 * 10**6
"""Bytes that one image may take while it is decoded and resized; an image that needs more is refused."""

SHARED_LIMIT = 512 * 10**6
"""Bytes for all images that are decoded at the same moment, unless one of them needs more and is decoded alone."""

_START_OF_SCAN = b"\xda"
_WITHOUT_LENGTH = {b"", b"\x00", b"\x01", *(bytes([marker]) for marker in range(0xD0, 0xDA))}
"""Markers of a JPEG that no length follows."""

_LARGE = 32 * 2**20
"""Bytes of an image after which freed memory is returned to the system."""

_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel of the modes of Pillow; 4 for all others."""

_DECODER_BYTES = {"WEBP": 8, "AVIF": 8, "JPEG2000": 24, "TIFF": 4, "GIF": 4}
"""Bytes per pixel that the decoder of a format needs in addition; 0 for formats that are decoded row by row."""

_COEFFICIENT_BYTES = 2
"""Bytes per value of the coefficients of a JPEG with several scans, which the decoder keeps until the end."""


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
        """Hold this thread's reservation until the end, so that it also covers the resize."""
        self._own.in_scope = True
        try:
            yield
        finally:
            self._own.in_scope = False
            self._release()

    def reserve(self, count: int) -> None:
        """Release what this thread holds, wait until `count` bytes are free (at most the limit), and reserve them.

        A thread that waits holds nothing, so threads never wait for each other. Only the end of a `scope` releases the
        reservation.
        """
        assert getattr(self._own, "in_scope", False), "memory is reserved outside a scope"
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

WEBP_HEADER = 30
"""Bytes of the start of a WebP file that contain its size."""


def webp_size(start: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP file from its first `WEBP_HEADER` bytes; None for any other file.

    Pillow's decoder allocates memory for whole images before Pillow checks their size. The layout of the file is in
    RFC 9649, sections 2.7 and 3.4, and RFC 6386, section 9.1.
    """
    if len(start) < WEBP_HEADER or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    if start[12:16] == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if start[12:16] == b"VP8L":
        sides = int.from_bytes(start[21:25], "little")
        return 1 + sides % 2**14, 1 + sides // 2**14 % 2**14
    if start[12:16] == b"VP8 ":
        return int.from_bytes(start[26:28], "little") % 2**14, int.from_bytes(start[28:30], "little") % 2**14
    return None


def webp_bytes(size: tuple[int, int]) -> int:
    """Estimate the peak of memory of decoding a WebP file of this size."""
    return math.prod(size) * (_stored_bytes("RGB") + _DECODER_BYTES["WEBP"])


def decoding_bytes(image: Image.Image, channels: int, size: tuple[int, int]) -> int:
    """Estimate the peak of memory of decoding and resizing an opened image, from its header.

    Args:
        image: The image, of which only the header has been read; a JPEG may be set to a reduced scale.
        channels: Channels of the pixels that are returned.
        size: Width and height of the image at full scale.
    """
    stored = _stored_bytes(image.mode)
    converted = 1 if channels == 1 else 4
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if isinstance(image, JpegImageFile) and _has_several_scans(image):
        decoder = _COEFFICIENT_BYTES * len(image.getbands())
    is_converted = image.mode != ("L" if channels == 1 else "RGB")
    copies = is_converted + _is_turned(image) + (stored == 2 or image.mode in ("I", "F"))  # the last is an array
    pixels = image.width * image.height
    decoding = pixels * stored + math.prod(size) * decoder
    return max(decoding, pixels * (copies * stored + converted + channels))


def _stored_bytes(mode: str) -> int:
    """Return the bytes per pixel of an image of Pillow."""
    return _PILLOW_BYTES.get(mode, 4)


def _has_several_scans(image: JpegImageFile) -> bool:
    """Return whether the first scan of a JPEG does not complete it: it is progressive, or lacks some components."""
    if image.info.get("progressive"):
        return True
    assert image.fp is not None
    image.fp.seek(0)
    while byte := image.fp.read(1):
        if byte != b"\xff":
            continue
        while (marker := image.fp.read(1)) == b"\xff":
            pass
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(image.fp.read(2), "big")
        if marker == _START_OF_SCAN:
            return image.fp.read(1) < bytes([len(image.getbands())])
        image.fp.seek(max(0, length - 2), os.SEEK_CUR)
    return True


def _is_turned(image: Image.Image) -> bool:
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode the image to look behind it
        return False
    return turn_of(image) is not None
