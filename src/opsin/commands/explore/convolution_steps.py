"""Convolution step by step: a window moves over a small input, and the sum at each position is written out."""

import html
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import gradio as gr
import numpy as np

from opsin.commands.explore.messages import error_area, shows_errors
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel, step_at, worked_size
from opsin.interpretability.convolution.sample_images import gray, sample
from opsin.visualization.formatting import decimal
from opsin.visualization.matrix_svg import Numbers, Window, matrix

MAX_CELLS = 16
"""Maximum number of rows and columns of the input: more numbers would be too small to read."""

CUSTOM = "custom"


def _edge() -> Numbers:
    return np.repeat([[1.0, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0)


def _cross() -> Numbers:
    cross = np.zeros((8, 8))
    cross[3:5, 1:7] = cross[1:7, 3:5] = 1
    return cross


def _digit(value: int) -> Numbers:
    return np.round(gray(sample(f"digit_{value}")), 1)


INPUTS: dict[str, Callable[[], Numbers]] = {
    "an edge": _edge,
    "a cross": _cross,
    "a gradient": lambda: np.round(np.add.outer(np.arange(8), np.arange(8)) / 14, 1),
    "a digit: 2": lambda: _digit(2),
    "a digit: 4": lambda: _digit(4),
}


def matrix_text(values: Numbers) -> str:
    """Return a matrix as text: one line per row, with repeating decimals as fractions."""
    return "\n".join(
        " ".join(
            decimal(value) if abs(value - round(value, 2)) < 1e-9 else str(Fraction(value).limit_denominator(999))
            for value in row
        )
        for row in values
    )


def read_matrix(text: str, what: str) -> Numbers:
    """Parse a matrix from text, with rows on separate lines or separated by semicolons.

    Raises:
        UserError: The text is not a matrix, or the matrix is too large.
    """
    rows = [row.replace(",", " ").split() for row in text.replace("\n", ";").split(";") if row.strip()]
    try:
        values = np.array([[float(value) for value in row] for row in rows], np.float64)
    except ValueError:
        raise UserError(f"{what} must have rows of equal length, such as 1 0 -1 on each of three lines") from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UserError(f"{what} must have at least one row of finite numbers")
    if max(values.shape) > MAX_CELLS:
        raise UserError(f"{what} is {values.shape[0]}x{values.shape[1]}; the limit is {MAX_CELLS}x{MAX_CELLS}")
    return values


def draw(image: str, kernel: str, stride: int, padding: int, dilation: int, position: int) -> tuple[str, int, int]:
    """Draw one step of a convolution with its sum and the computation of the output size.

    Args:
        image: Input as text.
        kernel: Kernel as text, or the name of a kernel.
        stride: Stride in cells.
        padding: Rows and columns of zeros on each side.
        dilation: Dilation in cells; 1 for none.
        position: Index of the output cell, row by row.

    Returns:
        HTML, the number of positions, and the position clipped to their range.

    Raises:
        UserError: A text cannot be parsed, or the kernel does not fit the input.
    """
    values, weights = read_matrix(image, "the input"), parse_kernel(kernel)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    output = convolve(values, weights, **how)
    positions = output.size
    position = min(max(position, 0), positions - 1)
    row, column = divmod(position, output.shape[1])
    step = step_at(values, weights, row, column, **how)
    cells = tuple(
        (row * stride + i * dilation, column * stride + j * dilation)
        for i in range(weights.shape[0])
        for j in range(weights.shape[1])
    )
    notes = tuple(f"·{decimal(weight)}" for weight in weights.ravel())
    padded = np.pad(values, padding)
    largest = float(np.abs(weights).max()) or 1.0
    limit = max(float(np.abs(output).max()), 1e-9)
    shown = [
        matrix(
            padded,
            _name("input", values) + (f", padded to {padded.shape[0]} x {padded.shape[1]}" if padding else ""),
            limits=(min(0.0, float(values.min())), max(1.0, float(values.max()))),
            border=padding,
            window=Window(cells, notes),
            name="input",
        ),
        matrix(weights, _name("kernel", weights), colors="RdBu_r", limits=(-largest, largest), name="kernel"),
        matrix(
            output,
            _name("output", output),
            colors="RdBu_r",
            limits=(-limit, limit),
            window=Window(((row, column),)),
            known=position + 1,
            name="output",
        ),
    ]
    sizes = _sizes(values, weights, **how)
    drawing = (
        f'<div class="drawings">{"".join(shown)}</div>'
        f'<p class="equation" aria-live="polite">row {row + 1}, column {column + 1}: {html.escape(step.text)}</p>'
        f'<p class="caption">{html.escape(sizes)}</p>'
    )
    return drawing, positions, position


def _name(what: str, values: Numbers) -> str:
    return f"{what} {values.shape[0]} x {values.shape[1]}"


def _sizes(values: Numbers, weights: Numbers, **how: int) -> str:
    height = worked_size(values.shape[0], weights.shape[0], **how)
    if values.shape[0] == values.shape[1] and weights.shape[0] == weights.shape[1]:
        return f"rows and columns: {height}"
    return f"rows: {height}; columns: {worked_size(values.shape[1], weights.shape[1], **how)}"


@shows_errors(None, gr.skip())
def show(image: str, kernel: str, stride: int, padding: int, dilation: int, position: int) -> tuple[str, Any]:
    """Return the drawing at a position, and the slider of positions."""
    drawing, positions, position = draw(image, kernel, stride or 1, padding or 0, dilation or 1, position - 1)
    return drawing, gr.Slider(minimum=1, maximum=max(positions, 2), value=position + 1)


@shows_errors(None, gr.skip(), gr.Timer(active=False))
def move(by: int, *settings: Any) -> tuple[str, Any, Any]:
    """Return the drawing after a number of positions, the slider, and the timer, active until the last position."""
    image, kernel, stride, padding, dilation, position = settings
    drawing, positions, position = draw(image, kernel, stride or 1, padding or 0, dilation or 1, position - 1 + by)
    slider = gr.Slider(maximum=max(positions, 2), value=position + 1)
    return drawing, slider, gr.Timer(active=position + 1 < positions)


def build() -> None:
    """Build the tab and connect its components."""
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            chosen = gr.Dropdown([*INPUTS, CUSTOM], value="an edge", label="Input")
            with gr.Accordion("Edit the input", open=False):
                image = gr.Textbox(
                    matrix_text(_edge()), label="Input, one row per line", lines=8, max_lines=16, elem_classes="numbers"
                )
        with gr.Column(scale=1, min_width=240):
            named = gr.Dropdown([*KERNELS, CUSTOM], value="sobel_vertical", label="Kernel")
            kernel = gr.Textbox(
                matrix_text(KERNELS["sobel_vertical"]),
                label="Kernel weights, one row per line",
                lines=3,
                elem_classes="numbers",
            )
            with gr.Row():
                stride = gr.Number(1, label="Stride", minimum=1, maximum=4, precision=0, min_width=70)
                padding = gr.Number(0, label="Padding", minimum=0, maximum=3, precision=0, min_width=70)
                dilation = gr.Number(1, label="Dilation", minimum=1, maximum=3, precision=0, min_width=70)
    error = error_area()
    with gr.Row():
        play = gr.Button("Play", variant="primary", min_width=60)
        pause = gr.Button("Pause", min_width=60)
        back = gr.Button("Back", min_width=60)
        forward = gr.Button("Step", min_width=60)
    position = gr.Slider(1, 36, 1, step=1, label="Output position, row by row", buttons=[])
    drawing = gr.HTML(draw(image.value, kernel.value, 1, 0, 1, 0)[0], js_on_load=None)
    timer = gr.Timer(0.4, active=False)

    settings = [image, kernel, stride, padding, dilation]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    inputs = [*settings, position]
    redraw: dict[str, Any] = {"fn": show, "inputs": inputs, "outputs": [error, drawing, position], **quiet}
    for component in settings:
        component.change(**redraw, trigger_mode="always_last")
    position.input(**redraw, trigger_mode="always_last")
    chosen.input(lambda name: matrix_text(INPUTS[name]()) if name in INPUTS else gr.skip(), chosen, image, **quiet)
    named.input(lambda name: matrix_text(KERNELS[name]) if name in KERNELS else gr.skip(), named, kernel, **quiet)
    image.input(lambda: CUSTOM, None, chosen, **quiet)
    kernel.input(lambda: CUSTOM, None, named, **quiet)

    outputs = [error, drawing, position, timer]
    tick = timer.tick(lambda *values: move(1, *values), inputs, outputs, **quiet)
    stop = {**quiet, "cancels": [tick]}  # a pending tick would otherwise finish after the animation stops
    pause.click(lambda: gr.Timer(active=False), None, timer, **stop)
    for button, by in ((back, -1), (forward, 1)):
        button.click(lambda *values, by=by: (*move(by, *values)[:3], gr.Timer(active=False)), inputs, outputs, **stop)
    play.click(_start, inputs, outputs, **quiet)


def _start(*settings: Any) -> tuple[Any, ...]:
    """Start the animation at the current position, or at the first one if the last is reached."""
    error, drawing, slider, timer = move(1, *settings)
    if not error and not timer.active:
        error, drawing, slider, timer = move(0, *settings[:-1], 1)
    return error, drawing, slider, gr.Timer(active=not error)
