"""The confusion matrix as SVG: numbers in the cells for few classes, colors and hover titles for many."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from opsin.visualization.charts import WIDTH, figure
from opsin.visualization.formatting import shortened

MOST_NUMBERED, MOST_NAMED = 12, 30
"""Maximum numbers of classes with numbers in the cells, and with names next to rows and columns."""

MOST_CELLS = 6000
"""Maximum number of cells drawn, so that the chart of a thousand classes stays below 1.5 MB."""

_TOP, _LARGEST = 14, 62
_NAMES = 74
"""Maximum width of the names in units."""


def confusion_chart(matrix: NDArray[np.int64], classes: Sequence[str], *, title: str) -> Markup:
    """Return a confusion matrix as a chart: true classes in rows, predicted classes in columns.

    The opacity of a cell shows its share of the row: correct predictions in blue, mistakes in red. The opacity of
    mistakes uses the square root of the share, so that rare mistakes stay visible.

    Args:
        matrix: Counts `(C, C)`.
        classes: Names `(C,)`.
        title: Title above the chart.
    """
    count = len(classes)
    named = count <= MOST_NAMED
    left = 16 + (min(_NAMES, 7 * max(map(len, classes))) if named else 0)
    top = left + _TOP - 8
    side = min(_LARGEST, (WIDTH - left) / count)
    parts = [
        f'<rect class="cell" x="{left}" y="{top}" width="{side * count:.2f}" height="{side * count:.2f}"/>',
        f'<text class="tick x" x="{left + side * count / 2:.1f}" y="10">predicted class</text>',
        f'<text class="tick x" transform="translate(9 {top + side * count / 2:.1f}) rotate(-90)">true class</text>',
    ]
    if named:
        parts += [_names(i, name, left, top, side) for i, name in enumerate(classes)]
    least = _least_drawn(matrix)
    if least > 1:
        title += f", cells with at least {least} images"
    drawn = np.argwhere(matrix >= least)
    parts += [_cell(matrix, int(row), int(column), classes, left, top, side) for row, column in drawn]
    height = math.ceil(top + side * count + 6)
    return figure(title, "".join(parts), height, name="chart" if named else "chart large")


def _least_drawn(matrix: NDArray[np.int64]) -> int:
    """Return the smallest number of images, at least 1, that at most `MOST_CELLS` cells have."""
    images = np.sort(matrix[matrix > 0])[::-1]
    return 1 if len(images) <= MOST_CELLS else int(images[MOST_CELLS]) + 1


def _names(i: int, name: str, left: float, top: float, side: float) -> str:
    middle, size = (i + 0.5) * side, min(11.0, max(7.0, side * 0.8))
    text = escape(shortened(name, 12 if size > 9 else 14))
    row = f'<text class="name" font-size="{size:.1f}" x="{left - 5}" y="{top + middle + size / 3:.1f}">{text}</text>'
    place = f"translate({left + middle + size / 3:.1f} {top - 5}) rotate(-90)"
    return f'{row}<text font-size="{size:.1f}" transform="{place}">{text}</text>'


def _cell(
    matrix: NDArray[np.int64], row: int, column: int, classes: Sequence[str], left: float, top: float, side: float
) -> str:
    images, total = int(matrix[row, column]), int(matrix[row].sum())
    share = images / total
    opacity = 0.65 * (share if row == column else math.sqrt(share))
    x, y = left + column * side, top + row * side
    prediction = "classified correctly" if row == column else f"classified as {classes[column]}"
    words = escape(f"{images:,} of {total:,} images of {classes[row]}: {prediction}")
    kind = "hit" if row == column else "miss"
    box = f'x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}"'
    shape = f'<rect class="{kind}" fill-opacity="{opacity:.2f}" {box}><title>{words}</title></rect>'
    if len(classes) > MOST_NUMBERED:
        return shape
    size = min(13.0, side * 0.36)
    place = f'x="{x + side / 2:.1f}" y="{y + side / 2 + size / 3:.1f}"'
    return f'{shape}<text class="count" font-size="{size:.1f}" {place}>{images}</text>'
