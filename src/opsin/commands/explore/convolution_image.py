"""Convolve an image with a kernel or a Gabor filter: stride, padding, dilation, pooling, and output sizes."""

import html
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from opsin.commands.explore.convolution_steps import CUSTOM
from opsin.commands.explore.image_picker import connect, image_picker
from opsin.commands.explore.outputs import error_area, picture_area, shows_errors
from opsin.commands.explore.uploads import read_upload
from opsin.interpretability.convolution.convolution import KERNELS, convolve, parse_kernel, pool, worked_size
from opsin.interpretability.convolution.gabor import gabor, gabor_bank, magnitude, responses
from opsin.interpretability.convolution.matrix_text import matrix_text
from opsin.interpretability.convolution.named_image import named_picture
from opsin.interpretability.convolution.sample_images import gray
from opsin.visualization.formatting import size_text
from opsin.visualization.images import Pixels, colorize, grid, resize_for_display, to_uint8

MAX_SIDE = 512
"""Longer side in pixels to which uploads are reduced: the page shows no more, and more takes longer."""

Gray = NDArray[np.float64]


def read_gray(data_dir: str | None, name: str | None, upload: Path | None) -> Gray:
    """Return the uploaded image, or else the named picture, in grayscale `(H, W)` in [0, 1].

    Args:
        data_dir: The folder of the datasets; None for the default.
        name: Name of a sample or of an image of a dataset, see `named_picture`.
        upload: An uploaded file.

    Raises:
        UserError: The file is not an image, or no image is chosen.
    """
    if upload is None:
        return gray(named_picture(name or "", data_dir))
    pixels = read_upload(upload, channels=1)
    return gray(resize_for_display(pixels, MAX_SIDE) if max(pixels.shape) > MAX_SIDE else pixels)


def response(values: Gray, kernel: Gray) -> tuple[Pixels, str]:
    """Return the response of a kernel as an image, and the values of black and white.

    Kernels that keep brightness are shown from 0 to 1. Others have positive and negative responses, mostly small: gray
    is 0, and 99 % of the values lie between black and white.
    """
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    low, high = (0.0, 1.0) if abs(kernel.sum() - 1) < 1e-6 else (-limit, limit)
    return resize_for_display(to_uint8(values, low, high), MAX_SIDE), f"black is {low:.3g}, white is {high:.3g}"


@shows_errors(None, None, None)
def convolve_image(
    data_dir: str | None,
    name: str,
    upload: Path | None,
    text: str,
    stride: int,
    padding: str,
    dilation: int,
    pooling: Literal["none", "max", "average"],
    size: int,
) -> tuple[Pixels, Pixels, str]:
    """Return the image, the response of the kernel, and the computation of the output sizes."""
    image, kernel = read_gray(data_dir, name, upload), parse_kernel(text)
    stride, dilation, size = int(stride), int(dilation), int(size)
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    result = convolve(image, kernel, **how)
    lines = [_worked_text("convolution", image.shape, kernel.shape, **how)]
    if pooling != "none":
        lines.append(_worked_text(f"{pooling} pooling", result.shape, (size, size), stride=size, padding=0, dilation=1))
        result = pool(result, size, kind=pooling)
    picture, scale = response(result, kernel)
    lines.append(scale)
    captions = "".join(f'<p class="caption">{html.escape(line)}</p>' for line in lines)
    return resize_for_display(to_uint8(image, 0, 1), MAX_SIDE), picture, captions


def _worked_text(what: str, size: tuple[int, ...], kernel: tuple[int, ...], **how: Any) -> str:
    rows, columns = (worked_size(side, width, **how) for side, width in zip(size, kernel, strict=True))
    return f"{what}: rows {rows}" + ("" if size[0] == size[1] and kernel[0] == kernel[1] else f"; columns {columns}")


@shows_errors(None, None)
def gabor_response(
    data_dir: str | None, name: str, upload: Path | None, frequency: float, theta: float, sigma: float
) -> tuple[Pixels, Pixels]:
    """Return the real and imaginary part of a Gabor filter, and the magnitude of its response."""
    image, kernel = read_gray(data_dir, name, upload), gabor(frequency, theta, sigma)
    limit = float(np.abs(kernel).max()) or 1.0
    parts = [colorize(part, "RdBu_r", -limit, limit) for part in (kernel.real, kernel.imag)]
    size = size_text(kernel.shape)
    filter_ = grid(parts, columns=2, side=220, captions=[f"real part, {size}", "imaginary part"])
    return filter_, resize_for_display(colorize(magnitude(image, kernel), "viridis"), MAX_SIDE)


@shows_errors(None)
def bank_responses(data_dir: str | None, name: str, upload: Path | None) -> Pixels:
    """Return the responses of a bank of Gabor filters."""
    image = read_gray(data_dir, name, upload)
    small = image if max(image.shape) <= 256 else np.asarray(resize_for_display(to_uint8(image, 0, 1), 256)) / 255
    found = responses(small, gabor_bank())
    pictures = [colorize(magnitudes, "viridis") for magnitudes in found.values()]
    return grid(
        pictures, columns=3, side=200, captions=[str(filter_).replace(", sigma", "\nsigma") for filter_ in found]
    )


def build_kernels(data_dir: str | None) -> None:
    """Build the tab that convolves an image with a kernel.

    Args:
        data_dir: The folder of the datasets; None for the default.
    """
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name, zone, upload = image_picker()
            kernels = [*KERNELS, CUSTOM]
            named = gr.Dropdown(kernels, value=kernels[0], label="Kernel")
            weights = gr.Textbox(
                matrix_text(KERNELS[kernels[0]]),
                label="Kernel weights, one row per line",
                lines=3,
                elem_classes="numbers",
            )
            stride = gr.Slider(1, 4, 1, step=1, label="Stride", buttons=[])
            padding = gr.Radio(["valid", "same"], value="valid", label="Padding")
            dilation = gr.Slider(1, 8, 1, step=1, label="Dilation", buttons=[])
            pooling = gr.Radio(["none", "max", "average"], value="none", label="Pooling")
            size = gr.Slider(2, 8, 2, step=1, label="Pooling size", buttons=[])
        with gr.Column(scale=2, min_width=280):
            error = error_area()
            sizes = gr.HTML(js_on_load=None)
            result = picture_area("Response of the kernel")
            before = picture_area("The image in grayscale")
    inputs = [name, upload, weights, stride, padding, dilation, pooling, size]
    named.input(
        lambda chosen: matrix_text(KERNELS[chosen]) if chosen in KERNELS else gr.skip(),
        named,
        weights,
        show_progress="hidden",
        api_visibility="private",
    )
    weights.input(lambda: CUSTOM, None, named, show_progress="hidden", api_visibility="private")
    connect(lambda *values: convolve_image(data_dir, *values), zone, inputs, [error, before, result, sizes])


def build_gabor(data_dir: str | None) -> None:
    """Build the tab that filters an image with Gabor filters.

    Args:
        data_dir: The folder of the datasets; None for the default.
    """
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name, zone, upload = image_picker()
            frequency = gr.Slider(0.01, 1, 0.16, step=0.01, label="Frequency (cycles per pixel)", buttons=[])
            theta = gr.Slider(0, 3.14, 1.2, step=0.01, label="Orientation theta (radians)", buttons=[])
            sigma = gr.Slider(0.1, 5, 4.0, step=0.1, label="Width sigma (pixels)", buttons=[])
            show_bank = gr.Button("Show a filter bank")
        with gr.Column(scale=2, min_width=280):
            error = error_area()
            filter_ = picture_area("The filter")
            magnitudes = picture_area("Magnitude of the response")
            bank = picture_area("Responses of a filter bank")
    connect(
        lambda *values: gabor_response(data_dir, *values),
        zone,
        [name, upload, frequency, theta, sigma],
        [error, filter_, magnitudes],
    )
    show_bank.click(
        lambda *values: bank_responses(data_dir, *values), [name, upload], [error, bank], api_visibility="private"
    )
