"""Convert arrays to images: scaling, color maps, overlays, grids, encoding."""

import base64
import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
"""Pixels, uint8: an image `(H, W, 3)`, or several `(B, H, W, C)`; gray `(H, W)` or `(H, W, 1)` where it is accepted."""

Values = NDArray[Any]

INK, PAPER = (32, 33, 36), (255, 255, 255)
_LINE, _GAP = 16, 6


def rgb(image: Pixels) -> Pixels:
    """Return an image with three channels: the first three if it has more; the third is black if it has two."""
    flat = image[..., np.newaxis] if image.ndim == 2 else image
    if flat.shape[2] == 1:
        return np.repeat(flat, 3, axis=2)
    return np.pad(flat, ((0, 0), (0, 0), (0, 1))) if flat.shape[2] == 2 else flat[..., :3]


def to_uint8(values: Values, low: float | None = None, high: float | None = None) -> Pixels:
    """Scale values linearly to uint8: `low` is black, `high` white, values outside are clipped.

    Args:
        values: Any shape.
        low: None for the minimum.
        high: None for the maximum.
    """
    values = np.asarray(values, np.float64)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    unit = (values - low) / (high - low) if high > low else np.zeros_like(values)
    picture: Pixels = np.rint(unit.clip(0, 1) * 255).astype(np.uint8)
    return picture


def colorize(values: Values, palette: str = "viridis", low: float | None = None, high: float | None = None) -> Pixels:
    """Map values `(H, W)` to colors `(H, W, 3)`; `RdBu_r` with low = -high shows signs, with zero as white.

    Args:
        values: The values.
        palette: Name of a color map of matplotlib.
        low: The value of the first color; None for the minimum.
        high: The value of the last color; None for the maximum.
    """
    from matplotlib import colormaps

    table = np.rint(colormaps[palette](np.arange(256))[:, :3] * 255).astype(np.uint8)
    picture: Pixels = table[to_uint8(values, low, high)]
    return picture


def resize(image: Pixels, size: tuple[int, int], smooth: bool = True) -> Pixels:
    """Resize an image `(H, W, C)` or `(H, W)` to (height, width), bilinear or nearest; more channels become three."""
    image = rgb(image) if image.ndim == 3 and image.shape[2] != 1 else image
    flat = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(flat).resize((size[1], size[0]), method)).reshape(*size, *image.shape[2:])


def fit(image: Pixels, side: int) -> Pixels:
    """Resize an image to a longer side of exactly `side`: enlarge to nearest pixels, reduce bilinearly."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    return resize(image, (max(1, round(height * factor)), max(1, round(width * factor))), smooth=factor < 1)


def resize_for_display(image: Pixels, side: int) -> Pixels:
    """Resize an image to a longer side of about `side`: enlarge by whole factors, reduce bilinearly."""
    longest = max(image.shape[:2])
    return fit(image, longest * round(side / longest) if side >= longest else side)


def overlay_heat(image: Pixels, heat: Values) -> Pixels:
    """Return an image with a heat map `(h, w)` in [0, 1] over it, resized to the image."""
    base = rgb(image).astype(np.float64)
    map_ = Image.fromarray(np.asarray(heat, np.float32)).resize(
        (base.shape[1], base.shape[0]), Image.Resampling.BILINEAR
    )
    over = colorize(np.asarray(map_), "jet", 0.0, 1.0).astype(np.float64)
    return np.rint((base + over) / 2).astype(np.uint8)


def grid(
    images: Sequence[Pixels],
    *,
    columns: int | None = None,
    side: int | None = 96,
    captions: Sequence[str] = (),
    title: str = "",
) -> Pixels:
    """Arrange images in a grid, with a caption under each and a title above the grid.

    Args:
        images: At least one, of any sizes.
        columns: Number of columns; None for about as many as rows.
        side: Longer side of each image in pixels; None to keep the sizes.
        captions: One per image, may have several lines; empty for none.
        title: Text above the grid.

    Raises:
        ValueError: There is no image, or the number of captions differs.
    """
    if not images or (captions and len(captions) != len(images)):
        raise ValueError(f"{len(images)} images and {len(captions)} captions")
    tiles = [rgb(resize_for_display(image, side) if side else image) for image in images]
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    width = max(side or 0, *(tile.shape[1] for tile in tiles))
    caption_height = _LINE * max((caption.count("\n") + 1 for caption in captions), default=0)
    heights = [max(tiles[i].shape[0] for i in row) for row in rows]
    top = (_LINE + 2 * _GAP) * bool(title) + _GAP
    total = top + sum(heights) + len(rows) * (caption_height + _GAP)
    canvas = Image.new("RGB", (columns * (width + _GAP) + _GAP, total), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((_GAP, _GAP), title, fill=INK, font=font(15))
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = _GAP + column * (width + _GAP)
            corner = x + (width - tiles[i].shape[1]) // 2, top + (height - tiles[i].shape[0]) // 2
            canvas.paste(Image.fromarray(tiles[i]), corner)
            if captions:
                _write(pen, captions[i], (x, top + height + 1), width)
        top += height + caption_height + _GAP
    return np.asarray(canvas)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font of a size in pixels: the one in matplotlib, which has more characters than that of Pillow."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


@cache
def fit_text(text: str, width: int) -> str:
    """Shorten a text of 12 pixels to a width in pixels, with an ellipsis at the end."""
    while text and font(12).getlength(text) > width:
        text = text[:-2] + "…" if len(text) > 2 else ""
    return text


def _write(pen: ImageDraw.ImageDraw, caption: str, place: tuple[int, int], width: int) -> None:
    letters = font(12)
    for row, line in enumerate(caption.split("\n")):
        middle = place[0] + width / 2, place[1] + row * _LINE
        pen.text(middle, fit_text(line, width), fill=INK, font=letters, anchor="ma")


def encode(image: Pixels, kind: Literal["PNG", "JPEG", "WEBP"] = "PNG") -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    options: dict[str, Any] = {"optimize": True} if kind == "PNG" else {"quality": 85}
    Image.fromarray(rgb(image)).save(stream, kind, **options)
    return stream.getvalue()


def data_uri(image: Pixels, kind: Literal["PNG", "JPEG", "WEBP"] = "PNG") -> str:
    """Return an image as a data URI for the `src` of an HTML image."""
    return file_uri(encode(image, kind), kind)


def file_uri(content: bytes, kind: str) -> str:
    """Return the bytes of an image file as a data URI."""
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
