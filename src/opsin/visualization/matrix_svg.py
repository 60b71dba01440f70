"""Matrices as SVG, small ones with numbers in the cells: the input and output of a convolution."""

import base64
import html
import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.visualization.formatting import decimal
from opsin.visualization.images import Pixels, colorize

CELL = 44
MOST_WITH_NUMBERS = 14
"""Largest number of rows and columns of a matrix that is drawn with its numbers."""

_FOCUS = "#d9480f"

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Framed cells of a matrix.

    Attributes:
        cells: (row, column) of each cell.
        notes: A small text in each cell, such as the weight that multiplies it; may be empty.
    """

    cells: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()


def matrix(
    values: Numbers,
    title: str,
    *,
    colors: str = "gray",
    limits: tuple[float, float],
    border: int = 0,
    window: Window | None,
    known: int | None = None,
    name: str = "",
) -> str:
    """Return a matrix as SVG that fills the available width, with numbers in the cells if there is room.

    Args:
        values: `(H, W)`.
        title: Caption below the matrix.
        colors: Name of a color map of matplotlib.
        limits: Values of the first and the last color.
        border: Rows and columns of padding on each side, drawn hatched.
        window: Cells to frame.
        known: Number of cells, row by row, that are drawn; None for all.
        name: CSS class of the figure.
    """
    rows, columns = values.shape
    written = has_numbers(values.shape)
    known = values.size if known is None else known
    table = colorize(values, colors, *limits)
    noted = set(window.cells) if window and window.notes else set()
    parts = [_HATCH]
    parts += _cells(values, table, border, known, noted) if written else _raster(table, border, known)
    for i, (row, column) in enumerate(window.cells if window else ()):
        x, y = column * CELL, row * CELL
        parts.append(f'<rect x="{x + 2}" y="{y + 2}" width="{CELL - 4}" height="{CELL - 4}" class="focus"/>')
        if window and window.notes and written:
            parts.append(f'<rect x="{x + 2}" y="{y + 2}" width="{CELL - 4}" height="16" fill="{_FOCUS}"/>')
            parts.append(_text(x + CELL / 2, y + 14.5, window.notes[i], "#fff", 12))
    picture = (
        f'<svg viewBox="-2 -2 {columns * CELL + 4} {rows * CELL + 4}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )
    share = f"flex: {columns} 1 0; max-width: {columns * CELL + 4}px"
    kind = name if written else f"{name} large"
    return f'<figure class="{kind}" style="{share}">{picture}<figcaption>{html.escape(title)}</figcaption></figure>'


def has_numbers(shape: tuple[int, ...]) -> bool:
    """Return whether a matrix of this shape is drawn with its numbers."""
    return max(shape) <= MOST_WITH_NUMBERS


def _cells(
    values: Numbers, table: Pixels, border: int, known: int, noted: Collection[tuple[int, int]]
) -> Iterator[str]:
    """Yield one square with a number for each cell; the number is lower in cells with a note."""
    rows, columns = values.shape
    for row, column in np.ndindex(values.shape):
        x, y = column * CELL, row * CELL
        if row * columns + column >= known:
            yield f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" class="unknown"/>'
            continue
        padded = border and not (border <= row < rows - border and border <= column < columns - border)
        fill, ink = ("url(#hatch)", "currentColor") if padded else _paint(table[row, column])
        yield f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}" class="cell"/>'
        middle = y + CELL / 2 + (12 if (row, column) in noted else 5)
        yield _text(x + CELL / 2, middle, decimal(float(values[row, column])), ink, 14)


def _raster(table: Pixels, border: int, known: int) -> Iterator[str]:
    """Yield one image with a pixel for each cell, transparent where nothing is known yet and on padding."""
    rows, columns = table.shape[:2]
    opaque = (np.arange(rows * columns) < known).reshape(rows, columns)
    if border:
        inside = np.zeros_like(opaque)
        inside[border:-border, border:-border] = True
        opaque &= inside
        yield f'<rect width="{columns * CELL}" height="{rows * CELL}" fill="url(#hatch)"/>'
    picture = np.dstack([table, opaque.astype(np.uint8) * 255])
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    yield (
        f'<image width="{columns * CELL}" height="{rows * CELL}" preserveAspectRatio="none" class="pixels" '
        f'href="data:image/png;base64,{data}"/>'
    )
    yield f'<rect width="{columns * CELL}" height="{rows * CELL}" class="unknown"/>'


_HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2" height="7" class="hatch"/></pattern></defs>'
)


def _paint(color: Pixels) -> tuple[str, str]:
    """Return a color `(3,)` and a readable text color as CSS."""
    red, green, blue = color.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}", "#111" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#fff"


def _text(x: float, y: float, text: str, fill: str, size: int) -> str:
    return f'<text x="{x}" y="{y}" fill="{fill}" font-size="{size}" text-anchor="middle">{html.escape(text)}</text>'
