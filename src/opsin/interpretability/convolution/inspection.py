"""The numbers of an image: shape, type and range, the channels of its color spaces, and a single pixel."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from opsin.errors import UserError
from opsin.interpretability.convolution.color_spaces import SPACES, color_spaces

_BANDS = {"R": "red", "G": "green", "B": "blue", "A": "alpha", "L": "gray", "P": "palette index"}
"""Names of the channels of Pillow."""


@dataclass(frozen=True)
class InspectedImage:
    """An image as it is stored, and as colors.

    Attributes:
        pixels: The stored values (H, W) or (H, W, C), of any type.
        bands: Names of the stored channels, one per channel.
        colors: uint8 (H, W, 3), from which the color spaces are calculated; None for an image typed as numbers.
        source: The format and the mode of the file, such as `PNG, mode RGBA`; empty for other images.
    """

    pixels: NDArray[Any]
    bands: tuple[str, ...]
    colors: NDArray[np.uint8] | None
    source: str = ""


FACTS = ("space", "channel", "dtype", "min", "max", "mean", "std")
"""Names of the columns of `channel_table`; `space` is `stored` for the values in memory or in the file, or `typed`."""


def inspect_array(pixels: NDArray[Any]) -> InspectedImage:
    """Return an image in memory: uint8 (H, W) or (H, W, 3), or the numbers of a gray image, float64 (H, W)."""
    if pixels.dtype != np.uint8:
        return InspectedImage(pixels, ("numbers",), None)
    bands = ("gray",) if pixels.ndim == 2 else ("red", "green", "blue")
    return InspectedImage(pixels, bands, pixels)


def inspect_file(path: Path) -> InspectedImage:
    """Return the image in a file, with the values as they are stored: palette, 16 bits, alpha and CMYK included.

    Raises:
        BadImage: The file is not an image; see `decode_image`.
    """
    from opsin.data.decode import FORMATS, decode_image  # imports torch, which takes seconds

    colors = decode_image(path, 3)  # checks the size and the whole file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about EXIF blocks
        with Image.open(path, formats=FORMATS) as image:
            bands = tuple(_BANDS.get(band, band) for band in image.getbands())
            return InspectedImage(_upright(image), bands, colors, f"{image.format}, mode {image.mode}")


def _upright(image: Image.Image) -> NDArray[Any]:
    """Return the stored values in the orientation of `decode_image`, which ignores a damaged EXIF block too."""
    try:
        return np.asarray(ImageOps.exif_transpose(image))
    except Exception:
        return np.asarray(image)


def summary(image: InspectedImage) -> str:
    """Return the shape, the type and the number of values, such as `shape (300, 451, 3), uint8, 405,900 values`."""
    about = f"{image.source}: " if image.source else ""
    return f"{about}shape {image.pixels.shape}, {image.pixels.dtype}, {image.pixels.size:,} values"


def channel_table(image: InspectedImage, pixel: tuple[int, int] | None = None) -> list[tuple[str, ...]]:
    """Return a table of the stored channels and those of all color spaces: the names of its columns, then the rows.

    Args:
        image: The image.
        pixel: Row and column of a pixel, whose values are the last column of the table; None for no such column.

    Raises:
        UserError: The pixel is outside the image.
    """
    height, width = image.pixels.shape[:2]
    if pixel and not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise UserError(
            f"row {pixel[0]}, column {pixel[1]} is outside the image, which has {height} rows and {width} columns"
        )
    facts: dict[tuple[str, str], _Facts] = {}
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        for name, values in _channels(image, slice(top, top + rows), slice(None)).items():
            facts.setdefault(name, _Facts(str(values.dtype))).add(values)
    table = [FACTS, *((*name, *fact.texts()) for name, fact in facts.items())]
    if pixel is None:
        return table
    row, column = pixel
    here = _channels(image, slice(row, row + 1), slice(column, column + 1)).values()
    last = [f"row {row}, column {column}", *(short_number(float(value.item())) for value in here)]
    return [(*cells, text) for cells, text in zip(table, last, strict=True)]


_STRIP = 2**20
"""Pixels whose color spaces are calculated at once, which takes about 200 MB."""


def _channels(image: InspectedImage, rows: slice, columns: slice) -> dict[tuple[str, str], NDArray[Any]]:
    """Return the values (h, w) of a part of an image, by color space and channel."""
    pixels = image.pixels[rows, columns]
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    space = "typed" if image.colors is None else "stored"
    found = {(space, name): pixels[..., i] for i, name in enumerate(image.bands)}
    if image.colors is None:
        return found
    values = color_spaces(image.colors[rows, columns])
    return found | {(space, name): values[name] for space, names in SPACES.items() for name in names}


@dataclass
class _Facts:
    """Facts of a channel, of which parts are added: the squared deviations are merged as by Chan et al. 1979."""

    dtype: str
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: NDArray[Any]) -> None:
        numbers = values.astype(np.float64)
        self.low, self.high = min(self.low, float(numbers.min())), max(self.high, float(numbers.max()))
        difference, total = float(numbers.mean()) - self.mean, self.count + numbers.size
        self.squares += float(numbers.var()) * numbers.size + difference**2 * self.count * numbers.size / total
        self.mean += difference * numbers.size / total
        self.count = total

    def texts(self) -> tuple[str, ...]:
        numbers = (self.low, self.high, self.mean, math.sqrt(self.squares / self.count))
        return (self.dtype, *map(short_number, numbers))


def short_number(value: float) -> str:
    """Return a number with at most three decimals, or five significant digits for large values: 0.302, 161.34, 255."""
    return f"{value:.0f}" if value == round(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.5g}"
