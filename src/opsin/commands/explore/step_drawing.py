"""The drawing of one step of a convolution or a pooling: input, window, output, and the calculation."""

import html
from dataclasses import dataclass
from typing import Literal

import numpy as np

from opsin.interpretability.convolution.convolution import Pooling, convolve, parse_kernel, pool, worked_size
from opsin.interpretability.convolution.matrix_text import parse_matrix
from opsin.interpretability.convolution.named_image import LARGEST_TYPED
from opsin.interpretability.convolution.single_step import Step, pool_step_at, step_at
from opsin.visualization.formatting import decimal, size_text
from opsin.visualization.matrix_svg import Numbers, Window, has_numbers, matrix

Operation = Literal["convolution", "max pooling", "average pooling"]

OPERATIONS: dict[Operation, Pooling | None] = {
    "convolution": None,
    "max pooling": "max",
    "average pooling": "average",
}
"""The operations, each with its kind of pooling."""

MOST_TERMS = 81
"""Largest number of terms that are written out."""


@dataclass(frozen=True)
class Layer:
    """An input and the settings of one layer, as they are typed.

    Attributes:
        image: Input as text.
        kernel: Kernel as text, or the name of a kernel; unused by pooling.
        stride: Stride in cells.
        padding: Rows and columns of zeros on each side; unused by pooling.
        dilation: Dilation in cells, 1 for none; unused by pooling.
        operation: A key of `OPERATIONS`.
        size: Side of the window of pooling.
    """

    image: str
    kernel: str = ""
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    operation: Operation = "convolution"
    size: int = 2


@dataclass(frozen=True)
class _Computed:
    """The matrices of a layer: its input, its kernel (None for pooling), its output; and the step at a position."""

    values: Numbers
    weights: Numbers | None
    output: Numbers
    step: Step
    row: int
    column: int


def draw(layer: Layer, position: int) -> tuple[str, int, int]:
    """Draw one step of a layer with its calculation and that of the output size.

    Args:
        layer: The input and the settings.
        position: Index of the output cell, row by row.

    Returns:
        HTML, the number of positions, and the position clipped to their range.

    Raises:
        UserError: A text cannot be parsed, or the kernel does not fit the input.
    """
    values = parse_matrix(layer.image, "the input", LARGEST_TYPED)
    kind = OPERATIONS[layer.operation]
    computed = _convolution(layer, values, position) if kind is None else _pooling(layer, kind, values, position)
    output = computed.output
    position = computed.row * output.shape[1] + computed.column
    text = computed.step.text
    if computed.step.window.size > MOST_TERMS:
        text = f"{computed.step.window.size} terms give {computed.step.total:.4g}"
    drawing = (
        f'<div class="drawings">{"".join(_matrices(layer, computed, position + 1))}</div>'
        f'<p class="equation" aria-live="polite">row {computed.row + 1}, column {computed.column + 1}: '
        f"{html.escape(text)}</p>"
        f'<p class="caption">{html.escape(_sizes(layer, computed))}</p>'
    )
    return drawing, output.size, position


def _convolution(layer: Layer, values: Numbers, position: int) -> _Computed:
    weights = parse_kernel(layer.kernel)
    output = convolve(values, weights, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    row, column = _place(output, position)
    step = step_at(values, weights, row, column, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
    return _Computed(values, weights, output, step, row, column)


def _pooling(layer: Layer, kind: Pooling, values: Numbers, position: int) -> _Computed:
    output = pool(values, layer.size, layer.stride, kind)
    row, column = _place(output, position)
    step = pool_step_at(values, layer.size, row, column, stride=layer.stride, kind=kind)
    return _Computed(values, None, output, step, row, column)


def _place(output: Numbers, position: int) -> tuple[int, int]:
    row, column = divmod(min(max(position, 0), output.size - 1), output.shape[1])
    return row, column


def _matrices(layer: Layer, computed: _Computed, known: int) -> list[str]:
    """Return the drawings of the input, of the window if the input is too large for numbers, the kernel, the output."""
    values, weights, output, step = computed.values, computed.weights, computed.output, computed.step
    padding, dilation = (layer.padding, layer.dilation) if weights is not None else (0, 1)
    cells = tuple(
        (step.top + padding + i * dilation, step.left + padding + j * dilation)
        for i, j in np.ndindex(step.window.shape)
    )
    notes = () if weights is None else tuple(f"·{decimal(weight)}" for weight in weights.ravel())
    padded = np.pad(values, padding)
    shades = (min(0.0, float(values.min())), max(1.0, float(values.max())))
    note = f", padded to {size_text(padded.shape)}" if padding else ""
    drawn = [
        matrix(
            padded,
            f"input {size_text(values.shape)}{note}",
            limits=shades,
            border=padding,
            window=Window(cells, notes),
            name="input",
        )
    ]
    if not has_numbers(padded.shape) and has_numbers(step.window.shape):
        whole = Window(tuple(np.ndindex(step.window.shape)), notes)
        drawn.append(matrix(step.window, "window", limits=shades, window=whole, name="kernel"))
    if weights is not None:
        drawn.append(_signed(weights, f"kernel {size_text(weights.shape)}", name="kernel"))
    here = Window(((computed.row, computed.column),))
    title = f"output {size_text(output.shape)}"
    if weights is None:
        drawn.append(matrix(output, title, limits=shades, window=here, known=known, name="output"))
    else:
        drawn.append(_signed(output, title, window=here, known=known, name="output"))
    return drawn


def _signed(values: Numbers, title: str, *, name: str, window: Window | None = None, known: int | None = None) -> str:
    limit = max(float(np.abs(values).max()), 1e-9)
    return matrix(values, title, colors="RdBu_r", limits=(-limit, limit), window=window, known=known, name=name)


def _sizes(layer: Layer, computed: _Computed) -> str:
    height, width = computed.values.shape
    if computed.weights is None:
        rows, columns = (worked_size(side, layer.size, stride=layer.stride) for side in (height, width))
    else:
        rows, columns = (
            worked_size(side, extent, stride=layer.stride, padding=layer.padding, dilation=layer.dilation)
            for side, extent in zip((height, width), computed.weights.shape, strict=True)
        )
    return f"rows and columns: {rows}" if rows == columns else f"rows: {rows}; columns: {columns}"
