"""Convolution and pooling step by step: a window moves over an input, and the calculation at each position is shown."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from opsin.commands.explore.outputs import error_area, shows_errors
from opsin.commands.explore.step_drawing import OPERATIONS, Layer, Operation, draw
from opsin.interpretability.convolution.convolution import KERNELS
from opsin.interpretability.convolution.dataset_images import DATASETS, dataset_image
from opsin.interpretability.convolution.matrix_text import matrix_text
from opsin.interpretability.convolution.sample_images import gray, sample
from opsin.visualization.matrix_svg import Numbers

CUSTOM = "custom"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


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
    "4 x 4 for pooling": lambda: np.array([[1.0, 3, 2, 4], [5, 6, 1, 2], [3, 2, 8, 1], [4, 7, 3, 9]]),
    "a digit: 2": lambda: _digit(2),
    "a digit: 4": lambda: _digit(4),
}
DATASET_INPUTS = {f"dataset: {name}": name for name in DATASETS}


@shows_errors(gr.skip(), gr.skip())
def choose_input(name: str, number: int | None, data_dir: str | None) -> tuple[Any, Any]:
    """Return the text of an input, and the field with the number of an image of a dataset, hidden for other inputs.

    Args:
        name: A key of `INPUTS` or `DATASET_INPUTS`, or `CUSTOM`.
        number: Number of the image.
        data_dir: The folder of the datasets.
    """
    if name in DATASET_INPUTS:
        image = dataset_image(DATASET_INPUTS[name], int(number or 0), data_dir)
        label = f"Image 0 to {image.count - 1}; this one is of class {image.label}"
        return matrix_text(gray(image.pixels)), gr.Number(visible=True, label=label)
    return matrix_text(INPUTS[name]()) if name in INPUTS else gr.skip(), gr.Number(visible=False)


def choose_operation(operation: Operation) -> tuple[Any, ...]:
    """Return the fields of the operation, visible if it has them, and the usual stride.

    Returns:
        Kernel, its weights, padding, dilation, window, stride.
    """
    convolves = OPERATIONS[operation] is None
    shown = [gr.update(visible=convolves)] * 4
    return (*shown, gr.update(visible=not convolves), 1 if convolves else 2)


def _layer(image: str, kernel: str, stride: int, padding: int, dilation: int, operation: Any, size: int) -> Layer:
    """Return the layer of the fields of the page, in which a number is None while it is edited."""
    return Layer(image, kernel, stride or 1, padding or 0, dilation or 1, operation, size or 1)


@shows_errors(None, gr.skip())
def show(*settings: Any) -> tuple[str, Any]:
    """Return the drawing at a position, and the slider of positions."""
    *fields, position = settings
    drawing, positions, position = draw(_layer(*fields), position - 1)
    return drawing, gr.Slider(minimum=1, maximum=max(positions, 2), value=position + 1)


@shows_errors(None, gr.skip(), gr.Timer(active=False))
def move(by: int, *settings: Any) -> tuple[str, Any, Any]:
    """Return the drawing after a number of positions, the slider, and the timer, active until the last position."""
    *fields, position = settings
    drawing, positions, position = draw(_layer(*fields), position - 1 + by)
    slider = gr.Slider(maximum=max(positions, 2), value=position + 1)
    return drawing, slider, gr.Timer(active=position + 1 < positions)


def _start(*settings: Any) -> tuple[Any, ...]:
    """Start the animation at the current position, or at the first one if the last is reached."""
    error, drawing, slider, timer = move(1, *settings)
    if not error and not timer.active:
        error, drawing, slider, timer = move(0, *settings[:-1], 1)
    return error, drawing, slider, gr.Timer(active=not error)


def build(data_dir: str | None) -> None:
    """Build the tab and connect its components.

    Args:
        data_dir: The folder of the datasets; None for the default.
    """
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            chosen = gr.Dropdown([*INPUTS, *DATASET_INPUTS, CUSTOM], value="an edge", label="Input")
            number = gr.Number(0, label="Image", minimum=0, precision=0, visible=False)
            with gr.Accordion("Edit the input", open=False):
                image = gr.Textbox(
                    matrix_text(_edge()), label="Input, one row per line", lines=8, max_lines=16, elem_classes="numbers"
                )
        with gr.Column(scale=1, min_width=240):
            operation = gr.Radio(list(OPERATIONS), value="convolution", label="Operation")
            named = gr.Dropdown([*KERNELS, CUSTOM], value="vertical", label="Kernel")
            kernel = gr.Textbox(
                matrix_text(KERNELS["vertical"]),
                label="Kernel weights, one row per line",
                lines=3,
                elem_classes="numbers",
            )
            with gr.Row():
                size = gr.Number(2, label="Window", minimum=1, precision=0, min_width=70, visible=False)
                stride = gr.Number(1, label="Stride", minimum=1, precision=0, min_width=70)
                padding = gr.Number(0, label="Padding", minimum=0, maximum=3, precision=0, min_width=70)
                dilation = gr.Number(1, label="Dilation", minimum=1, maximum=3, precision=0, min_width=70)
    error = error_area()
    with gr.Row():
        play = gr.Button("Play", variant="primary", min_width=60)
        buttons = [play, *(gr.Button(text, min_width=60) for text in ("Pause", "Back", "Step"))]
    position = gr.Slider(1, 36, 1, step=1, label="Output position, row by row", buttons=[])
    drawing = gr.HTML(draw(Layer(image.value, kernel.value), 0)[0], js_on_load=None)
    timer = gr.Timer(0.4, active=False)

    settings = [image, kernel, stride, padding, dilation, operation, size]
    inputs = [*settings, position]
    redraw: dict[str, Any] = {"fn": show, "inputs": inputs, "outputs": [error, drawing, position], **QUIET}
    for component in settings:
        component.change(**redraw, trigger_mode="always_last")
    position.input(**redraw, trigger_mode="always_last")
    for component in (chosen, number):
        component.input(
            lambda name, index: choose_input(name, index, data_dir),
            [chosen, number],
            [error, image, number],
            **QUIET,
            trigger_mode="always_last",
        )
    operation.input(choose_operation, operation, [named, kernel, padding, dilation, size, stride], **QUIET)
    named.input(lambda name: matrix_text(KERNELS[name]) if name in KERNELS else gr.skip(), named, kernel, **QUIET)
    image.input(lambda: (CUSTOM, gr.Number(visible=False)), None, [chosen, number], **QUIET)
    kernel.input(lambda: CUSTOM, None, named, **QUIET)
    _connect_player(buttons, timer, inputs, [error, drawing, position, timer])


def _connect_player(buttons: list[gr.Button], timer: gr.Timer, inputs: list[Any], outputs: list[Any]) -> None:
    """Connect the buttons Play, Pause, Back and Step."""
    play, pause, back, forward = buttons
    tick = timer.tick(lambda *values: move(1, *values), inputs, outputs, **QUIET)
    stop = {**QUIET, "cancels": [tick]}  # a pending tick would otherwise finish after the animation stops
    pause.click(lambda: gr.Timer(active=False), None, timer, **stop)
    for button, by in ((back, -1), (forward, 1)):
        button.click(lambda *values, by=by: (*move(by, *values)[:3], gr.Timer(active=False)), inputs, outputs, **stop)
    play.click(_start, inputs, outputs, **QUIET)
