"""A kernel or a Gabor filter over a whole picture: strides, padding, dilation and pooling, sizes worked out."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from opsin.commands.explore.convolution_steps import OWN, typed
from opsin.commands.explore.messages import answers, message
from opsin.commands.explore.uploads import drop_zone, on_upload, read_picture
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel, pool, worked_size
from opsin.interpretability.convolution.gabor import gabor, gabor_bank, magnitude, responses
from opsin.interpretability.convolution.sample_images import grey, sample, sample_names
from opsin.visualization.images import Pixels, coloured, grid, shown, stretched

LARGEST = 512
"""Longer side, in pixels, to which uploads are reduced: more cannot be seen here, and takes long."""

Grey = NDArray[np.float64]


def read_grey(name: str | None, upload: Path | None) -> Grey:
    """The chosen picture in grey, `(H, W)` in [0, 1]; an uploaded one comes first.

    Raises:
        UserError: It is no image, or none is chosen.
    """
    if upload is None:
        return grey(sample(name or ""))
    pixels = read_picture(upload, channels=1)
    return grey(shown(pixels, LARGEST) if max(pixels.shape) > LARGEST else pixels)


def response(values: Grey, kernel: Grey) -> tuple[Pixels, str]:
    """What a kernel answers, as a picture, and what its black and white mean.

    Kernels that keep brightness are shown from 0 to 1. Others answer with both signs, mostly weakly: grey is 0, and all
    but one value in a hundred lie between black and white.
    """
    reach = float(np.quantile(np.abs(values), 0.99)) or 1.0
    low, high = (0.0, 1.0) if abs(kernel.sum() - 1) < 1e-6 else (-reach, reach)
    return shown(stretched(values, low, high), LARGEST), f"black is {low:.3g}, white {high:.3g}"


@answers(None, None, None)
def sweep(
    name: str,
    upload: Path | None,
    text: str,
    stride: int,
    padding: str,
    dilation: int,
    pooling: Literal["none", "max", "average"],
    size: int,
) -> tuple[Pixels, Pixels, str]:
    """The picture, what the kernel makes of it, and the sizes worked out."""
    image, kernel = read_grey(name, upload), parse_kernel(text)
    stride, dilation, size = int(stride), int(dilation), int(size)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    result = convolve(image, kernel, **how)
    lines = [_worked("convolution", image.shape, kernel.shape, **how)]
    if pooling != "none":
        lines.append(_worked(f"{pooling} pooling", result.shape, (size, size), stride=size, padding=0, dilation=1))
        result = pool(result, size, kind=pooling)
    picture, scale = response(result, kernel)
    lines.append(scale)
    words = "".join(f'<p class="size">{html.escape(line)}</p>' for line in lines)
    return shown(stretched(image, 0, 1), LARGEST), picture, words


def _worked(what: str, size: tuple[int, ...], kernel: tuple[int, ...], **how: Any) -> str:
    rows, columns = (worked_size(side, width, **how) for side, width in zip(size, kernel, strict=True))
    return f"{what}: rows {rows}" + ("" if size[0] == size[1] and kernel[0] == kernel[1] else f"; columns {columns}")


@answers(None, None)
def filtered(name: str, upload: Path | None, frequency: float, theta: float, sigma: float) -> tuple[Pixels, Pixels]:
    """A Gabor filter, real and imaginary part, and the magnitude of its response."""
    image, kernel = read_grey(name, upload), gabor(frequency, theta, sigma)
    reach = float(np.abs(kernel).max()) or 1.0
    parts = [coloured(part, "RdBu_r", -reach, reach) for part in (kernel.real, kernel.imag)]
    size = f"{kernel.shape[0]} x {kernel.shape[1]}"
    filter_ = grid(parts, columns=2, side=220, captions=[f"real part, {size}", "imaginary part"])
    return filter_, shown(coloured(magnitude(image, kernel), "viridis"), LARGEST)


@answers(None)
def banked(name: str, upload: Path | None) -> Pixels:
    """The responses of a whole bank of Gabor filters."""
    image = read_grey(name, upload)
    small = image if max(image.shape) <= 256 else np.asarray(shown(stretched(image, 0, 1), 256)) / 255
    answered = responses(small, gabor_bank())
    pictures = [coloured(answer, "viridis") for answer in answered.values()]
    return grid(
        pictures, columns=3, side=200, captions=[str(filter_).replace(", sigma", "\nsigma") for filter_ in answered]
    )


def build() -> None:
    """Lay out both parts of the page, and connect them."""
    with gr.Tab("Over a picture", id="picture"):
        _build_kernels()
    with gr.Tab("Gabor filters", id="gabor"):
        _build_gabor()


def _picture() -> tuple[gr.Dropdown, gr.Image, gr.State]:
    names = list(sample_names())
    return gr.Dropdown(names, value=names[0], label="Picture"), *drop_zone("or one of your own")


def _build_kernels() -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name, zone, upload = _picture()
            kernels = [*KERNELS, OWN]
            named = gr.Dropdown(kernels, value=kernels[0], label="Kernel")
            weights = gr.Textbox(
                typed(KERNELS[kernels[0]]), label="Its weights, a row per line", lines=3, elem_classes="numbers"
            )
            stride = gr.Slider(1, 4, 1, step=1, label="Stride", buttons=[])
            padding = gr.Radio(["valid", "same"], value="valid", label="Padding")
            dilation = gr.Slider(1, 8, 1, step=1, label="Dilation", buttons=[])
            pooling = gr.Radio(["none", "max", "average"], value="none", label="Pooling")
            size = gr.Slider(2, 8, 2, step=1, label="Pooling size", buttons=[])
        with gr.Column(scale=2, min_width=280):
            said = message()
            worked = gr.HTML(js_on_load=None)
            result = gr.Image(
                label="What the kernel answers", format="png", buttons=["fullscreen"], elem_classes="picture"
            )
            before = gr.Image(label="The picture in grey", format="png", buttons=["fullscreen"], elem_classes="picture")
    inputs = [name, upload, weights, stride, padding, dilation, pooling, size]
    named.input(
        lambda chosen: typed(KERNELS[chosen]) if chosen in KERNELS else gr.skip(),
        named,
        weights,
        show_progress="hidden",
        api_visibility="private",
    )
    weights.input(lambda: OWN, None, named, show_progress="hidden", api_visibility="private")
    _connect(sweep, zone, inputs, [said, before, result, worked])


def _build_gabor() -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name, zone, upload = _picture()
            frequency = gr.Slider(0.01, 1, 0.16, step=0.01, label="Frequency, waves per pixel", buttons=[])
            theta = gr.Slider(0, 3.14, 1.2, step=0.01, label="Direction theta, radians", buttons=[])
            sigma = gr.Slider(0.1, 5, 4.0, step=0.1, label="Width sigma, pixels", buttons=[])
            whole = gr.Button("A whole bank")
        with gr.Column(scale=2, min_width=280):
            said = message()
            filter_ = gr.Image(label="The filter", format="png", buttons=["fullscreen"], elem_classes="picture")
            answer = gr.Image(
                label="Magnitude of its response", format="png", buttons=["fullscreen"], elem_classes="picture"
            )
            bank = gr.Image(label="A whole bank", format="png", buttons=["fullscreen"], elem_classes="picture")
    _connect(filtered, zone, [name, upload, frequency, theta, sigma], [said, filter_, answer])
    whole.click(banked, [name, upload], [said, bank], api_visibility="private")


def _connect(handler: Callable[..., Any], zone: gr.Image, inputs: list[Any], outputs: list[Any]) -> None:
    """Answer every change of an input, and the opening of the tab."""
    name, upload, *others = inputs
    for event in on_upload(zone, upload):
        event.then(handler, inputs, outputs, api_visibility="private")
    for component in (name, *others):
        component.change(handler, inputs, outputs, trigger_mode="always_last", api_visibility="private")
    tab = gr.context.Context.block
    while not isinstance(tab, gr.Tab):
        tab = tab.parent
    tab.select(handler, inputs, outputs, api_visibility="private")
