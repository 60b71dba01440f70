"""Convolution, step by step: the window moves over a small input, and the sum at each place is written out."""

import html
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import gradio as gr
import numpy as np

from opsin.commands.explore.messages import answers, message
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel, step_at, worked_size
from opsin.interpretability.convolution.sample_images import grey, sample
from opsin.visualization.matrix_svg import Numbers, Window, matrix, number

MOST_CELLS = 16
"""Rows and columns of an input that is typed: with more, the numbers cannot be read."""

OWN = "your own numbers"


def _edge() -> Numbers:
    return np.repeat([[1.0, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0)


def _cross() -> Numbers:
    cross = np.zeros((8, 8))
    cross[3:5, 1:7] = cross[1:7, 3:5] = 1
    return cross


def _digit(figure: int) -> Numbers:
    return np.round(grey(sample(f"digit_{figure}")), 1)


INPUTS: dict[str, Callable[[], Numbers]] = {
    "an edge": _edge,
    "a cross": _cross,
    "a slope": lambda: np.round(np.add.outer(np.arange(8), np.arange(8)) / 14, 1),
    "a digit: 2": lambda: _digit(2),
    "a digit: 4": lambda: _digit(4),
}


def typed(values: Numbers) -> str:
    """Numbers as they are typed: a row per line, thirds and ninths as fractions."""
    return "\n".join(
        " ".join(
            number(value) if abs(value - round(value, 2)) < 1e-9 else str(Fraction(value).limit_denominator(999))
            for value in row
        )
        for row in values
    )


def read_matrix(text: str, what: str) -> Numbers:
    """Numbers that were typed, rows on lines or after semicolons.

    Raises:
        UserError: They are no matrix, or too large a one.
    """
    rows = [row.replace(",", " ").split() for row in text.replace("\n", ";").split(";") if row.strip()]
    try:
        values = np.array([[float(value) for value in row] for row in rows], np.float64)
    except ValueError:
        raise UserError(
            f"{what}: should be rows of equally many numbers, such as 1 0 -1 on each of three lines"
        ) from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise UserError(f"{what}: should be at least one row of finite numbers")
    if max(values.shape) > MOST_CELLS:
        raise UserError(f"{what}: {values.shape[0]}x{values.shape[1]} is too large: at most {MOST_CELLS}x{MOST_CELLS}")
    return values


def draw(image: str, kernel: str, stride: int, padding: int, dilation: int, place: int) -> tuple[str, int, int]:
    """The drawing of one step, with the sum and the size worked out.

    Args:
        image: Numbers, as typed.
        kernel: Numbers, as typed, or the name of a kernel.
        stride: In cells.
        padding: Rows and columns of zeros at each side.
        dilation: In cells; 1: none.
        place: Which cell of the output, row by row.

    Returns:
        HTML, how many places there are, and the place, brought into their range.

    Raises:
        UserError: Something typed cannot be read, or the kernel does not fit the input.
    """
    values, weights = read_matrix(image, "the input"), parse_kernel(kernel)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    output = convolve(values, weights, **how)
    places = output.size
    place = min(max(place, 0), places - 1)
    row, column = divmod(place, output.shape[1])
    step = step_at(values, weights, row, column, **how)
    cells = tuple(
        (row * stride + i * dilation, column * stride + j * dilation)
        for i in range(weights.shape[0])
        for j in range(weights.shape[1])
    )
    notes = tuple(f"·{number(weight)}" for weight in weights.ravel())
    padded = np.pad(values, padding)
    largest = float(np.abs(weights).max()) or 1.0
    reach = max(float(np.abs(output).max()), 1e-9)
    shown = [
        matrix(
            padded,
            _name("input", values) + (f", padded to {padded.shape[0]} x {padded.shape[1]}" if padding else ""),
            limits=(min(0.0, float(values.min())), max(1.0, float(values.max()))),
            border=padding,
            window=Window(cells, notes),
            name="input",
        ),
        matrix(weights, _name("kernel", weights), colours="RdBu_r", limits=(-largest, largest), name="kernel"),
        matrix(
            output,
            _name("output", output),
            colours="RdBu_r",
            limits=(-reach, reach),
            window=Window(((row, column),)),
            known=place + 1,
            name="output",
        ),
    ]
    sizes = _sizes(values, weights, **how)
    drawing = (
        f'<div class="drawings">{"".join(shown)}</div>'
        f'<p class="sum" aria-live="polite">row {row + 1}, column {column + 1}: {html.escape(step.text)}</p>'
        f'<p class="size">{html.escape(sizes)}</p>'
    )
    return drawing, places, place


def _name(what: str, values: Numbers) -> str:
    return f"{what} {values.shape[0]} x {values.shape[1]}"


def _sizes(values: Numbers, weights: Numbers, **how: int) -> str:
    height = worked_size(values.shape[0], weights.shape[0], **how)
    if values.shape[0] == values.shape[1] and weights.shape[0] == weights.shape[1]:
        return f"rows and columns: {height}"
    return f"rows: {height}; columns: {worked_size(values.shape[1], weights.shape[1], **how)}"


@answers(None, gr.skip())
def show(image: str, kernel: str, stride: int, padding: int, dilation: int, place: int) -> tuple[str, Any]:
    """The drawing at a place, and the slider of places."""
    drawing, places, place = draw(image, kernel, stride or 1, padding or 0, dilation or 1, place - 1)
    return drawing, gr.Slider(minimum=1, maximum=max(places, 2), value=place + 1)


@answers(None, gr.skip(), gr.Timer(active=False))
def move(by: int, *where: Any) -> tuple[str, Any, Any]:
    """The drawing some places further, the slider, and whether the animation goes on."""
    image, kernel, stride, padding, dilation, place = where
    drawing, places, place = draw(image, kernel, stride or 1, padding or 0, dilation or 1, place - 1 + by)
    return drawing, gr.Slider(maximum=max(places, 2), value=place + 1), gr.Timer(active=place + 1 < places)


def build() -> None:
    """Lay out the part of the page, and connect it."""
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            chosen = gr.Dropdown([*INPUTS, OWN], value="an edge", label="Input")
            with gr.Accordion("Its numbers, to change", open=False):
                image = gr.Textbox(
                    typed(_edge()), label="Input, a row per line", lines=8, max_lines=16, elem_classes="numbers"
                )
        with gr.Column(scale=1, min_width=240):
            named = gr.Dropdown([*KERNELS, OWN], value="sobel_vertical", label="Kernel")
            kernel = gr.Textbox(
                typed(KERNELS["sobel_vertical"]), label="Its weights, a row per line", lines=3, elem_classes="numbers"
            )
            with gr.Row():
                stride = gr.Number(1, label="Stride", minimum=1, maximum=4, precision=0, min_width=70)
                padding = gr.Number(0, label="Padding", minimum=0, maximum=3, precision=0, min_width=70)
                dilation = gr.Number(1, label="Dilation", minimum=1, maximum=3, precision=0, min_width=70)
    said = message()
    with gr.Row():
        play = gr.Button("Play", variant="primary", min_width=60)
        pause = gr.Button("Pause", min_width=60)
        back = gr.Button("Back", min_width=60)
        forward = gr.Button("Step", min_width=60)
    place = gr.Slider(1, 36, 1, step=1, label="Place, row by row", buttons=[])
    drawing = gr.HTML(draw(image.value, kernel.value, 1, 0, 1, 0)[0], js_on_load=None)
    timer = gr.Timer(0.4, active=False)

    settings = [image, kernel, stride, padding, dilation]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    redraw: dict[str, Any] = {"fn": show, "inputs": [*settings, place], "outputs": [said, drawing, place], **quiet}
    for component in settings:
        component.change(**redraw, trigger_mode="always_last")
    place.input(**redraw, trigger_mode="always_last")
    chosen.input(lambda name: typed(INPUTS[name]()) if name in INPUTS else gr.skip(), chosen, image, **quiet)
    named.input(lambda name: typed(KERNELS[name]) if name in KERNELS else gr.skip(), named, kernel, **quiet)
    image.input(lambda: OWN, None, chosen, **quiet)
    kernel.input(lambda: OWN, None, named, **quiet)

    here, there = [*settings, place], [said, drawing, place, timer]
    tick = timer.tick(lambda *where: move(1, *where), here, there, **quiet)
    still = {**quiet, "cancels": [tick]}  # a tick under way would come after what stops the animation
    pause.click(lambda: gr.Timer(active=False), None, timer, **still)
    for button, by in ((back, -1), (forward, 1)):
        button.click(lambda *where, by=by: (*move(by, *where)[:3], gr.Timer(active=False)), here, there, **still)
    play.click(_start, here, there, **quiet)


def _start(*where: Any) -> tuple[Any, ...]:
    """Animate from here, or from the first place when the last is reached."""
    said, drawing, slider, timer = move(1, *where)
    if not said and not timer.active:
        said, drawing, slider, timer = move(0, *where[:-1], 1)
    return said, drawing, slider, gr.Timer(active=not said)
