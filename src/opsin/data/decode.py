"""Decode an image file, or its bytes, to uint8 pixels, or refuse it with a short reason."""

import contextlib
import io
import logging
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from opsin.data.fit import Fit, fit_image, fit_pillow, reduce_jpeg
from opsin.data.image_memory import LIMIT, WEBP_HEADER, decoding_bytes, image_memory, webp_bytes, webp_size
from opsin.data.orientation import upright
from opsin.data.types import BadImage

# Raster formats recognized by their first bytes. Pillow reads more formats, but some of those run other programs (EPS
# calls Ghostscript) or accept almost any bytes (TGA). Camera files with several images (MPO) open as JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")

GRAY_OR_RGB = (1, 3)
"""Numbers of channels that every image can be converted to."""

_BANDS = ("LA", "RGBA", "RGBX", "CMYK")
"""Modes of Pillow with two or four channels."""

_WITH_ALPHA = {"1": "LA", "L": "LA", "RGB": "RGBA", "P": "RGBA", "PA": "RGBA"}
"""Modes of Pillow for images that store transparent colors instead of alpha, once these are an alpha channel."""

logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # its errors are raised too, with the file's name

_NPY = b"\x93NUMPY"
"""The first bytes of a `.npy` file."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF: in either byte order, small or large."""

_OTHER_FORMATS = {
    "HEIC": re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "Photoshop": re.compile(rb"8BPS"),
    "SVG": re.compile(rb"\s*(<[?!][^>]*>\s*)*<svg\b"),
}
"""The first bytes of images in widespread formats that are not among `FORMATS`, for the message about them."""

_WHITE_IS_ZERO, _SIGNED = 0, 2
"""Values of two TIFF tags: of PhotometricInterpretation and of SampleFormat."""

_FORMAT_HEADER = 1024
"""Number of bytes at the start of a file that determine its format."""

_LARGE = 2**24
"""Size in bytes above which a file is not read in one call."""

_STRIP = 2**22
"""Number of pixels that are copied in one step from an image to an array."""

DECODING_VERSION = 2
"""Part of the name of every store and of the index of shards: raise it when decoding or resizing changes a pixel."""


def decode_image(data: bytes | Path, channels: int, fit: Fit | None = None) -> NDArray[np.uint8]:
    """Decode an image completely, turn it upright, and bring it to the size of a network.

    All readers of image files call this function: stores, shards, predictions, embeddings and the Python API. A JPEG
    that is much larger than `fit` is decoded at a reduced scale, see `opsin.data.fit.reduce_jpeg`.

    EXIF orientation is applied; the first frame of an animation is used; CMYK, YCbCr, Lab and palettes become
    RGB; bytes after the end of the image are ignored. Gray from color is ITU-R 601 luma.

    Transparency (an alpha channel, or transparent colors of a palette) is dropped and its colors are kept, as in
    `torchvision.datasets.ImageFolder`, fastai and Keras, so a network gets the same pixels from every program. 16-bit
    gray is divided by 257; of 16-bit color, the upper 8 bits are kept. Floats in [0, 1] are multiplied by 255. A TIFF
    that stores white as 0 is inverted, as viewers do. Pixels are not stretched to the range of an image, so equal
    values mean equal brightness in all images.
    `opsin.data.contrast` warns about datasets that lose their contrast by these rules.

    For another number of channels, the file must have exactly that number. No channel is converted or dropped. This
    works for a `.npy` file (H, W, C), a multi-band TIFF, and an image with alpha, transparent colors or CMYK. 16-bit
    values and floats in [0, 1] are scaled to 8 bits. `.npy` files and TIFFs that tifffile reads are not turned upright.

    Thread-safe. Pillow releases the GIL while it decodes, so threads help.

    Args:
        data: The bytes of an image file, or the path of an image file.
        channels: 1 for gray, 3 for RGB, or another number.
        fit: The size, and how the image is brought to it. None: the size of the file.

    Returns:
        uint8 pixels (H, W, channels), possibly read-only.

    Raises:
        BadImage: The file cannot be read, has zero bytes, is not an image, is truncated or damaged, has more
            pixels than the limit (twice `PIL.Image.MAX_IMAGE_PIXELS`: 179 million by default), needs more memory than
            `opsin.data.image_memory.LIMIT`, has pixel values of an unknown range, has another number of channels, or is
            too long and narrow for `fit`. Size and memory are checked before the image is decoded.
    """
    content = read_content(data) if isinstance(data, Path) else data
    with damage_as_bad_image(), image_memory.scope():  # no variable here may hold the image beyond the scope
        return _decoded(content, channels, fit)


@contextlib.contextmanager
def damage_as_bad_image() -> Iterator[None]:
    """Raise `BadImage` for each error with which Pillow reports a damaged image within a block."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image of a known format, or damaged at its start") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadImage(f"more than {limit:,} pixels: use a smaller copy of it") from None
    except Exception as error:
        # Pillow's decoders raise nearly every built-in exception for damaged bytes (OSError, SyntaxError, ValueError,
        # struct.error, EOFError ...); all of them mean that the image cannot be decoded.
        reason = "" if isinstance(error, LookupError | TypeError | AttributeError) else str(error)
        raise BadImage(f"damaged: {reason or 'its content is not that of its format'}") from error


def _decoded(content: bytes | Path, channels: int, fit: Fit | None) -> NDArray[np.uint8]:
    with _opened(content) as file, _pillow_warnings_ignored:
        if not file.read(1):
            raise BadImage("zero bytes")
        if channels not in GRAY_OR_RGB and (values := band_array(file, channels)) is not None:
            pixels = _checked_bands(values, channels)
            return fit_image(pixels, *fit) if fit else pixels
        if canvas := webp_size(_start(file)):
            _reserve(webp_bytes(canvas), canvas)  # before Pillow's decoder allocates its images
        with _open_image(file) as image:
            size = image.size
            reduction = reduce_jpeg(image, fit) if fit and channels in GRAY_OR_RGB else None
            _reserve(decoding_bytes(image, channels, size) + _size(content), size)
            image.load()  # complete decoding: Image.verify() misses truncation
            if fit and channels in GRAY_OR_RGB:
                return fit_pillow(_gray_or_rgb(image, channels), fit, reduction)
            pixels = image_pixels(image, channels)
            return fit_image(pixels, *fit) if fit else pixels


def _open_image(file: BinaryIO) -> Image.Image:
    """Open an image of one of `FORMATS`, without its pixels.

    Raises:
        BadImage: The file has another widespread format, which the message names.
    """
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(_FORMAT_HEADER)
        for name, header in _OTHER_FORMATS.items():
            if header.match(start):
                raise BadImage(f"{name} is not a format that can be read: convert it to JPEG or PNG") from None
        raise


def image_pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Return the pixels of an opened image as `decode_image` does: upright, in 8 bits, gray and RGB without alpha.

    Args:
        image: Any image of Pillow.
        channels: 1 for gray, 3 for RGB, or another number.

    Returns:
        uint8 pixels (H, W, channels), possibly read-only.

    Raises:
        BadImage: The range of the pixel values is unknown, or the image has another number of channels.
    """
    if channels not in GRAY_OR_RGB:
        image = _transparency_as_alpha(upright(image), channels)
        if image.mode not in _BANDS:
            raise BadImage(f"has mode {image.mode} instead of {channels} channels")
        return _checked_bands(_as_array(image), channels)
    pixels = _as_array(_gray_or_rgb(image, channels))
    return pixels[..., np.newaxis] if channels == 1 else pixels


def _transparency_as_alpha(image: Image.Image, channels: int) -> Image.Image:
    """Return an image whose transparent colors are an alpha channel; a gray palette becomes gray for 2 channels."""
    if image.mode in _BANDS or not image.has_transparency_data:
        return image
    color = image.info.get("transparency")
    if isinstance(color, tuple) and max(color) > 255:  # of 16 bits per channel, of which Pillow reads 8
        return image
    is_gray = channels == 2 and image.mode in ("P", "PA") and _has_gray_palette(image)
    return image.convert("LA" if is_gray else _WITH_ALPHA.get(image.mode, image.mode))


def _has_gray_palette(image: Image.Image) -> bool:
    """Return whether all colors that an image uses are gray."""
    colors = np.reshape(image.getpalette("RGB") or [], (-1, 3))
    used = np.flatnonzero(image.getchannel("P").histogram())
    return not np.ptp(colors[used[used < len(colors)]], axis=1).any()


def _gray_or_rgb(image: Image.Image, channels: int) -> Image.Image:
    """Return an opened image upright, with mode L or RGB."""
    _refuse_misread_tiff(image)
    return _to_mode(upright(image), "L" if channels == 1 else "RGB")


def _refuse_misread_tiff(image: Image.Image) -> None:
    """Refuse a TIFF whose values Pillow reads in a wrong way, without an error.

    Raises:
        BadImage: It has 16 bits per channel in separate planes without compression, compressed 32-bit or signed values
            in big-endian order, or signed values of 8 bits.
    """
    if (tags := getattr(image, "tag_v2", None)) is None:
        return
    bits = set(tags.get(ExifTags.Base.BitsPerSample, ()))
    is_plain = tags.get(ExifTags.Base.Compression, 1) == 1
    if is_plain and bits == {16} and tags.get(ExifTags.Base.PlanarConfiguration) == 2:
        raise BadImage("has 16 bits per channel in separate planes: save it with interleaved channels, or compressed")
    if not is_plain and image.mode in ("I", "F") and tags.prefix == b"MM":
        raise BadImage("has compressed values in big-endian order: save it in little-endian order, or uncompressed")
    if bits == {8} and _SIGNED in tags.get(ExifTags.Base.SampleFormat, ()):
        raise BadImage("signed values of 8 bits: their range is unknown")


def _as_array(image: Image.Image) -> NDArray[Any]:
    """Return the pixels of an image; `np.asarray` would need twice the memory for a large image."""
    width, height = image.size
    if width * height <= _STRIP:
        return np.asarray(image)
    rows = max(1, _STRIP // width)
    first = np.asarray(image.crop((0, 0, width, 1)))
    pixels = np.empty((height, *first.shape[1:]), first.dtype)
    for top in range(0, height, rows):
        pixels[top : top + rows] = image.crop((0, top, width, min(top + rows, height)))
    return pixels


def _reserve(count: int, shape: tuple[int, ...]) -> None:
    """Reserve the memory of decoding an image.

    Raises:
        BadImage: The image needs more than all images may take together.
    """
    if count > LIMIT:
        size = " x ".join(f"{side:,}" for side in shape)
        raise BadImage(
            f"{size} values need about {count / 1e9:.1f} GB of memory to decode, more than the limit of "
            f"{LIMIT / 1e9:.1f} GB: use a smaller copy of it"
        )
    image_memory.reserve(count)


def _size(content: bytes | Path) -> int:
    """Return the bytes of a file that are in memory."""
    return len(content) if isinstance(content, bytes) else 0


def _start(file: BinaryIO) -> bytes:
    """Return the first bytes of a file, and go back to its start."""
    file.seek(0)
    start = file.read(WEBP_HEADER)
    file.seek(0)
    return start


def _opened(content: bytes | Path) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def read_content(path: Path) -> bytes | Path:
    """Return the bytes of an image file, or the path of a large one.

    From a path, Pillow reads only the start at first. A large file is often not an image, such as a video, and may be
    larger than the memory. Pipes and devices are not opened: reading them may not end.

    Raises:
        BadImage: The file cannot be read, or is not a regular file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise BadImage("not a regular file")
        with path.open("rb") as file:
            return path if os.fstat(file.fileno()).st_size > _LARGE else file.read()
    except (OSError, ValueError) as error:  # ValueError: the name contains a zero byte
        raise BadImage(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def has_image_header(path: Path) -> bool:
    """Return whether a file begins as one that `decode_image` opens does; reads only its start.

    Pillow opens fewer files than `decode_image`: neither arrays nor every TIFF of several bands.
    """
    try:
        with path.open("rb") as file:
            start = file.read(WEBP_HEADER)
            if start.startswith((_NPY, *_TIFF)) or webp_size(start):
                return True
        with _pillow_warnings_ignored, Image.open(path, formats=_formats()):
            return True
    except Exception:  # as in `decode_image`
        return False


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _to_mode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Convert an image to 8-bit gray ("L") or "RGB"; values are scaled, never clipped."""
    if image.mode == mode:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "LAB":
        image = image.convert("RGB")  # Pillow cannot convert it to gray directly
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray ("I;16", or "I" for 16-bit PGM) or floats in [0, 1] to 0..255.

    Of the TIFFs that store white as 0, Pillow inverts those of 8 bits and fewer only.
    """
    pixels = _scaled(_as_array(image), 1.0 if image.mode == "F" else 65535.0, f"mode {image.mode}")
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
        np.subtract(255, pixels, out=pixels)
    return Image.fromarray(pixels)


def _scaled(values: NDArray[Any], top: float, kind: str) -> NDArray[np.uint8]:
    if values.size and not (values.min() >= 0 and values.max() <= top):
        raise BadImage(f"pixel values outside 0..{top:.0f} ({kind}): their range is unknown")
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _STRIP * len(values) // max(1, values.size))
    for start in range(0, len(values), rows):  # in strips, because double precision needs eight times the memory
        scaled[start : start + rows] = np.rint(values[start : start + rows] * (255.0 / top))
    return scaled


def band_array(file: BinaryIO, channels: int) -> NDArray[Any] | None:
    """Return the array of a `.npy` file or a multi-band TIFF; None for files that Pillow reads with all channels.

    The caller opens a scope of `image_memory`, which holds the memory of the array.
    """
    start = _start(file)
    if start.startswith(_NPY):
        _reserve_npy(file)
        array: NDArray[Any] = np.load(file, allow_pickle=False)
        return array
    if not start.startswith(_TIFF) or _pillow_has_all(file, channels):
        return None
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # as for Pillow
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        _reserve(2 * series.size * series.dtype.itemsize + series.size, series.shape)
        values: NDArray[Any] = series.asarray()
    return np.moveaxis(values, 0, -1) if values.ndim == 3 and series.axes.endswith("YX") else values


def _reserve_npy(file: BinaryIO) -> None:
    """Reserve the memory of a `.npy` file by the shape in its header."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception:  # the header is parsed as Python literals, which fail with any exception
        raise BadImage("damaged: no valid header of a NumPy array") from None
    count = math.prod(shape)
    _reserve(2 * count * dtype.itemsize + count, shape)
    file.seek(0)


def _pillow_has_all(file: BinaryIO, channels: int) -> bool:
    """Return whether Pillow keeps all channels of a TIFF; it drops channels that none of its modes has."""
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            tags = getattr(image, "tag_v2", {})
            eight = set(tags.get(ExifTags.Base.BitsPerSample, (1,))) == {8}
            return eight and image.mode in _BANDS and tags.get(ExifTags.Base.SamplesPerPixel) == channels
    except UnidentifiedImageError:
        return False


def _checked_bands(values: NDArray[Any], channels: int) -> NDArray[np.uint8]:
    """Return an array as uint8 (H, W, channels).

    Raises:
        BadImage: It has another shape, or its values have an unknown range.
    """
    if values.ndim != 3 or values.shape[2] != channels or 0 in values.shape:
        raise BadImage(f"has the shape {values.shape} instead of (H, W, {channels})")
    if values.dtype == np.uint8:
        return values
    is_16_bit = values.dtype.kind == "u" and values.dtype.itemsize == 2  # in either byte order
    if is_16_bit or np.issubdtype(values.dtype, np.floating):
        return _scaled(values, 65535.0 if is_16_bit else 1.0, str(values.dtype))
    raise BadImage(f"values of type {values.dtype}: their range is unknown")


class _PillowWarningsIgnored:
    """Ignores warnings from Pillow's own modules while at least one thread is in the block.

    Many intact photographs have EXIF blocks that Pillow warns about. `warnings.catch_warnings` saves and restores the
    filters of the whole process, which fails when threads interleave; a counter does not.
    """

    _FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active = 0

    def __enter__(self) -> None:
        with self._lock:
            self._active += 1
            if self._active == 1:
                cast("list[object]", warnings.filters).insert(0, self._FILTER)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active -= 1
            # Missing if the program entered or left its own catch_warnings meanwhile.
            if self._active == 0 and self._FILTER in warnings.filters:
                cast("list[object]", warnings.filters).remove(self._FILTER)


_pillow_warnings_ignored = _PillowWarningsIgnored()
