"""Small matrices as SVG with numbers in the cells: the input and output of a convolution."""

import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from opsin.visualization.formatting import decimal

CELL = 44
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
    colors: str = "Greys_r",
    limits: tuple[float, float] = (0, 1),
    border: int = 0,
    window: Window | None = None,
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
    paint = _painter(colors, limits)
    written = max(rows, columns) <= 14
    noted = set(window.cells) if window and window.notes else set()
    parts = [_HATCH]
    for row in range(rows):
        for column in range(columns):
            x, y = column * CELL, row * CELL
            if known is not None and row * columns + column >= known:
                parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" class="unknown"/>')
                continue
            value = float(values[row, column])
            padded = border and not (border <= row < rows - border and border <= column < columns - border)
            fill, ink = ("url(#hatch)", "currentColor") if padded else paint(value)
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}" class="cell"/>')
            if written:
                parts.append(
                    _text(x + CELL / 2, y + CELL / 2 + (12 if (row, column) in noted else 5), decimal(value), ink, 14)
                )
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
    return f'<figure class="{name}" style="{share}">{picture}<figcaption>{html.escape(title)}</figcaption></figure>'


_HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="2" height="7" class="hatch"/></pattern></defs>'
)


def _painter(palette: str, limits: tuple[float, float]) -> Callable[[float], tuple[str, str]]:
    """Return a function from a value to its color and a readable text color."""
    low, high = limits
    table = colormaps[palette]

    def paint(value: float) -> tuple[str, str]:
        red, green, blue, _ = table(min(1.0, max(0.0, (value - low) / (high - low))))
        light = 0.299 * red + 0.587 * green + 0.114 * blue
        fill = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        return fill, "#111" if light > 0.55 else "#fff"

    return paint


def _text(x: float, y: float, text: str, fill: str, size: int) -> str:
    return f'<text x="{x}" y="{y}" fill="{fill}" font-size="{size}" text-anchor="middle">{html.escape(text)}</text>'
