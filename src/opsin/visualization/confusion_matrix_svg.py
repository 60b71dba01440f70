"""The confusion matrix as a drawing: numbers in the cells of a few classes, colors and hover titles for many."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from opsin.visualization.charts import WIDTH
from opsin.visualization.formatting import shortened

MOST_NUMBERED, MOST_NAMED = 12, 30
"""Classes up to which cells show their numbers, and rows and columns their names."""

MOST_CELLS = 6000
"""Cells that are drawn at most, so that a thousand classes do not make a page of megabytes."""

_TOP, _LARGEST = 14, 62
_NAMES = 74
"""Units for the longest names."""


def confusion_chart(matrix: NDArray[np.int64], classes: Sequence[str], *, title: str) -> Markup:
    """Images by true class (rows) and predicted class (columns).

    A cell is the darker the larger its share of its row is: the diagonal in blue, mistakes in red, whose shares are
    drawn by their square root so that few of them are seen too.

    Args:
        matrix: `(C, C)`.
        classes: Names `(C,)`.
        title: Above the chart.
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
    parts += [_cell(matrix, int(row), int(column), classes, left, top, side) for row, column in _shown(matrix)]
    height = math.ceil(top + side * count + 6)
    drawing = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    kind = "chart" if named else "chart large"
    return Markup(f'<figure class="{kind}"><figcaption>{escape(title)}</figcaption>{drawing}</figure>')


def _shown(matrix: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cells that hold images, the fullest ones where there are too many: `(N, 2)`."""
    cells = np.argwhere(matrix > 0)
    if len(cells) <= MOST_CELLS:
        return cells
    order = np.argsort(-matrix[cells[:, 0], cells[:, 1]], kind="stable")
    return cells[order[:MOST_CELLS]]


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
    what = "told rightly" if row == column else f"taken for {classes[column]}"
    words = escape(f"{images:,} of {total:,} images of {classes[row]} are {what}")
    kind = "hit" if row == column else "miss"
    box = f'x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}"'
    shape = f'<rect class="{kind}" fill-opacity="{opacity:.2f}" {box}><title>{words}</title></rect>'
    if len(classes) > MOST_NUMBERED:
        return shape
    size = min(13.0, side * 0.36)
    place = f'x="{x + side / 2:.1f}" y="{y + side / 2 + size / 3:.1f}"'
    return f'{shape}<text class="count" font-size="{size:.1f}" {place}>{images}</text>'
