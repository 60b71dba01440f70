"""A single position of a kernel or of a pooling window, with its calculation written out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import Padding, Pooling, paddings, sliding_windows


@dataclass(frozen=True)
class Step:
    """One position of a kernel or window.

    Attributes:
        window: The values under the kernel, (kernel height, kernel width), with zeros for padding.
        total: The value of the output.
        text: The calculation, such as `1·0.2 + 0·0.5 - 2·0.1 = 0` (kernel first) or `max(1, 3, 5, 6) = 6`, with
            three significant digits.
        top: Row of the image under the first row of the kernel; negative on padding.
        left: Column of the image under the first column of the kernel; negative on padding.
    """

    window: NDArray[np.float64]
    total: float
    text: str
    top: int
    left: int


def step_at(
    image: NDArray[Any],
    kernel: NDArray[Any],
    row: int,
    column: int,
    *,
    stride: int = 1,
    padding: Padding = "valid",
    dilation: int = 1,
) -> Step:
    """Return the calculation of one output value of `convolve`.

    Args:
        image: (H, W).
        kernel: (kernel height, kernel width).
        row: Row of the output, from 0.
        column: Column of the output, from 0.
        stride: As for `convolve`.
        padding: As for `convolve`.
        dilation: As for `convolve`.

    Raises:
        UserError: The position is outside the output; or as `convolve`.
    """
    window = _window(sliding_windows(image, kernel.shape, stride, padding, dilation), row, column)
    top, left = (
        place * stride - paddings(side, extent, stride=stride, padding=padding, dilation=dilation)[0]
        for place, side, extent in zip((row, column), image.shape, kernel.shape, strict=True)
    )
    total = float((window * kernel).sum())
    return Step(window, total, _sum_text(window, kernel, total), top, left)


def pool_step_at(
    image: NDArray[Any], size: int, row: int, column: int, *, stride: int | None = None, kind: Pooling = "max"
) -> Step:
    """Return the calculation of one output value of `pool`.

    Args:
        image: (H, W).
        size: Side of the window.
        row: Row of the output, from 0.
        column: Column of the output, from 0.
        stride: Step between windows; None for `size`.
        kind: `max` or `average`.

    Raises:
        UserError: The position is outside the output; or as `pool`.
    """
    stride = size if stride is None else stride
    window = _window(sliding_windows(image, (size, size), stride, "valid", 1), row, column)
    values = [f"{value:.3g}" if value >= 0 or kind == "max" else f"({value:.3g})" for value in window.ravel().tolist()]
    if kind == "max":
        total = float(window.max())
        text = f"max({', '.join(values)}) = {total:.4g}"
    else:
        total = float(window.mean())
        text = f"({' + '.join(values)}) / {window.size} = {total:.4g}"
    return Step(window, total, text, row * stride, column * stride)


def _window(every: NDArray[np.float64], row: int, column: int) -> NDArray[np.float64]:
    height, width = every.shape[:2]
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"row {row}, column {column} is outside the output, which has {height} rows and {width} columns"
        )
    window: NDArray[np.float64] = every[row, column].copy()
    return window


def _sum_text(window: NDArray[np.float64], kernel: NDArray[Any], total: float) -> str:
    text = ""
    for weight, value in zip(kernel.ravel(), window.ravel(), strict=True):
        sign = (" - " if text else "-") if weight < 0 else (" + " if text else "")
        number = f"{value:.3g}" if value >= 0 else f"({value:.3g})"
        text += f"{sign}{abs(weight):.3g}·{number}"
    return f"{text} = {total:.4g}"
