"""Figures of convolutions: kernels and their responses, Gabor filters, pooling, color spaces, a single step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from opsin.interpretability.convolution.color_spaces import SPACES, color_pictures
from opsin.interpretability.convolution.convolution import POOLINGS, Padding, convolve, paddings, pool
from opsin.interpretability.convolution.gabor import Gabor, gabor, gabor_bank, responses
from opsin.interpretability.convolution.single_step import step_at
from opsin.visualization.formatting import decimal, size_text
from opsin.visualization.images import Pixels, Values, colorize, fit, font, grid, rgb, to_uint8

LECTURE_LIMITS = (-4.0, 4.0)
"""Values of black and white in the figures of filtered digits in the lectures."""

DIGIT_SIDE = 64
"""Images up to this side use `LECTURE_LIMITS`."""

READABLE_CELL = 20
"""Side in pixels of the smallest square in which a number such as -0.11 is readable."""

TILE = 260
"""Longer side in pixels of a pooled image, or of a channel of a color space."""

SIGNED = "RdBu_r"
BOX, RIM = (232, 119, 34), (90, 150, 210)


def limits(image: Values, kernel: Values, response: Values) -> tuple[float, float]:
    """Return the values displayed as black and white.

    A kernel with sum 1 returns an image in [0, 1]. Digits are displayed from -4 to 4. For photographs, whose edges are
    weak, the limit is the 98 % quantile of the magnitude.

    Args:
        image: (H, W) in [0, 1].
        kernel: The kernel.
        response: The result of the convolution.
    """
    total = float(kernel.sum())
    if abs(total - 1) < 1e-6:
        return 0.0, 1.0
    if max(image.shape) <= DIGIT_SIDE:
        return LECTURE_LIMITS
    if abs(total) > 1e-6:
        return min(total, 0.0), max(total, 0.0)
    most = float(np.quantile(np.abs(response), 0.98)) or 1.0
    return -most, most


def numbered(
    values: Values,
    *,
    cell: int = 36,
    palette: str = SIGNED,
    low: float | None = None,
    high: float | None = None,
    boxes: Mapping[tuple[int, int, int, int], tuple[int, int, int]] | None = None,
) -> Pixels:
    """Draw a small array as colored squares with numbers.

    Args:
        values: (H, W).
        cell: Side of a square in pixels.
        palette: Name of a color map of matplotlib.
        low: The value of the first color; None for `-high`.
        high: The value of the last color; None for the largest magnitude.
        boxes: Boxes to outline, (top, left, height, width) in squares, with their colors.
    """
    most = float(np.abs(values).max()) or 1.0
    high = most if high is None else high
    low = -high if low is None else low
    colors = colorize(values, palette, low, high)
    canvas = Image.fromarray(np.kron(colors, np.ones((cell, cell, 1), np.uint8)))
    pen = ImageDraw.Draw(canvas)
    texts = [[_short(value) for value in row] for row in np.asarray(values, np.float64).tolist()]
    longest = max(len(text) for row in texts for text in row)
    digits = font(round(max(8, min(cell * 0.4, 1.5 * cell / longest))))
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            ink = (0, 0, 0) if colors[i, j] @ np.array([0.299, 0.587, 0.114]) > 120 else (255, 255, 255)
            pen.text(((j + 0.5) * cell, (i + 0.5) * cell), text, fill=ink, font=digits, anchor="mm")
    for place in range(1, max(values.shape)):
        pen.line([(0, place * cell), (canvas.width, place * cell)], fill=(190, 190, 190))
        pen.line([(place * cell, 0), (place * cell, canvas.height)], fill=(190, 190, 190))
    for box, color in (boxes or {}).items():
        top, left, height, width = (extent * cell for extent in box)
        pen.rectangle([left, top, left + width - 1, top + height - 1], outline=color, width=max(2, cell // 10))
    return np.asarray(canvas)


def _short(value: float) -> str:
    return decimal(value, 0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2)


def _signed(kernel: Values) -> Pixels:
    """Color a kernel: blue is negative, white zero, red positive."""
    most = float(np.abs(kernel).max()) or 1.0
    return colorize(kernel, SIGNED, -most, most)


def kernel_picture(
    image: Values,
    kernels: Mapping[str, Values],
    *,
    stride: int = 1,
    padding: Padding = "valid",
    dilation: int = 1,
    value_range: tuple[float, float] | None = None,
) -> Pixels:
    """Draw the image, then each kernel next to its response.

    Args:
        image: (H, W) in [0, 1].
        kernels: Kernels by name.
        stride: As for `convolve`.
        padding: As for `convolve`.
        dilation: As for `convolve`.
        value_range: The values displayed as black and white; None for `limits`.
    """
    side = 220  # the longer one of each response, in pixels
    first = fit(to_uint8(image, 0, 1), side)
    pictures, captions = [first], [f"the image, {size_text(image.shape)}\nshown 0 to 1"]
    for name, kernel in kernels.items():
        response = convolve(image, kernel, stride=stride, padding=padding, dilation=dilation)
        low, high = value_range or limits(image, kernel, response)
        answer = fit(to_uint8(response, low, high), side)
        tile = max(side // 3, min(answer.shape[0], side * 2 // 3))  # a flat response may have a height of one pixel
        cell = tile // max(kernel.shape)
        drawn = numbered(kernel, cell=cell) if cell >= READABLE_CELL else _signed(kernel)
        pictures.append(grid([fit(drawn, tile), answer], columns=2, side=None))
        captions.append(f"{name.replace('_', ' ')}\n{size_text(response.shape)}, shown {low:.2g} to {high:.2g}")
    return grid(pictures, columns=3, side=None, captions=captions)


def numbers_picture(matrices: Mapping[str, Values], image: str, columns: int) -> Pixels:
    """Draw small arrays as colored squares with numbers, one caption each.

    Args:
        matrices: Arrays (H, W) by caption.
        image: Caption of the array that is drawn in gray.
        columns: Number of arrays per row.
    """
    pictures = []
    for name, values in matrices.items():
        cell = max(16, min(40, 640 // max(values.shape)))
        shades: dict[str, Any] = {"palette": "gray", "low": min(0.0, float(values.min()))} if name == image else {}
        pictures.append(numbered(values, cell=cell, **shades))
    captions = [f"{name}, {size_text(values.shape)}" for name, values in matrices.items()]
    return grid(pictures, columns=columns, side=None, captions=captions)


def gabor_picture(image: Values, filters: Sequence[Gabor]) -> Pixels:
    """Draw the image, and for each filter its real part, its imaginary part, and the magnitude of its response."""
    bank = {filter_: gabor(*filter_) for filter_ in filters}
    first = fit(to_uint8(image, 0, 1), 300)
    pictures, captions = [first], [f"the image, {size_text(image.shape)}"]
    for filter_, response in responses(image, bank).items():
        most = float(np.quantile(response, 0.995)) or 1.0
        answer = fit(to_uint8(response, 0, most), 300)
        parts = [fit(_signed(part), answer.shape[0]) for part in (bank[filter_].real, bank[filter_].imag)]
        pictures.append(grid([*parts, answer], columns=3, side=None))
        size = f"real and imaginary part, {size_text(bank[filter_].shape)}; magnitude, shown 0 to {most:.2g}"
        captions.append(f"{filter_}\n{size}")
    return grid(pictures, columns=1, side=None, captions=captions)


def bank_picture(image: Values) -> Pixels:
    """Draw `gabor_bank()`: rows of real parts, each above a row of responses, which share one scale.

    Args:
        image: (H, W) in [0, 1].
    """
    columns, side = 6, 150
    bank = gabor_bank()
    answers = responses(image, bank)
    filters = list(bank)
    first = fit(to_uint8(image, 0, 1), 2 * side)
    rows = [grid([first], side=2 * side, captions=[f"the image, {size_text(image.shape)}"])]
    for start in range(0, len(filters), columns):
        row = filters[start : start + columns]
        most = max(float(np.quantile(answers[filter_], 0.995)) for filter_ in row) or 1.0
        kernels = [fit(_signed(bank[filter_].real), side) for filter_ in row]
        pictures = [fit(to_uint8(answers[filter_], 0, most), side) for filter_ in row]
        captions = [str(filter_).replace(", theta", "\ntheta") for filter_ in row]
        rows.append(grid(kernels, columns=columns, side=side, captions=captions))
        rows.append(grid(pictures, columns=columns, side=side, captions=[f"shown 0 to {most:.2g}"] * len(row)))
    return grid(rows, columns=1, side=None)


def pool_picture(image: Values, sizes: Sequence[int], stride: int | None) -> Pixels:
    """Draw the image, then max and average pooling for each window size."""
    pictures, captions = [to_uint8(image, 0, 1)], [f"the image\n{size_text(image.shape)}"]
    for size in sizes:
        for kind in POOLINGS:
            values = pool(image, size, stride, kind)
            pictures.append(to_uint8(values, 0, 1))
            captions.append(f"{kind} of {size} x {size}\n{size_text(values.shape)}")
    columns = 1 + 2 * len(sizes) if len(sizes) < 3 else 5
    fitted = [fit(picture, TILE) for picture in pictures]
    return grid(fitted, columns=columns, side=TILE, captions=captions)


def color_picture(image: Pixels) -> Pixels:
    """Draw the image, then its channels in RGB, gray, HSV and L*a*b*."""
    pictures = {"the image": rgb(image), **color_pictures(image)}
    captions = ["the image", *(f"{name}, {space}" for space, names in SPACES.items() for name in names)]
    fitted = [fit(picture, TILE) for picture in pictures.values()]
    return grid(fitted, columns=4, side=TILE, captions=captions)


def step_picture(
    image: Values,
    kernel: Values,
    row: int,
    column: int,
    *,
    stride: int = 1,
    padding: Padding = "valid",
    dilation: int = 1,
    cell: int = 40,
) -> Pixels:
    """Draw the image with the window outlined, the kernel, and the output with its value outlined.

    For images of up to 32 pixels per side, whose numbers are readable; raises as `step_at`.
    """
    words: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    step = step_at(image, kernel, row, column, **words)
    output = convolve(image, kernel, **words)
    zeros = [paddings(side, extent, **words) for side, extent in zip(image.shape, kernel.shape, strict=True)]
    top, left = step.top + zeros[0][0], step.left + zeros[1][0]
    window = {(top, left, *kernel.shape): BOX}
    if dilation > 1:  # the kernel skips the pixels between
        window = {(top + dilation * i, left + dilation * j, 1, 1): BOX for i, j in np.ndindex(*kernel.shape)}
    padded = np.pad(image, zeros)
    inside = (zeros[0][0], zeros[1][0], *image.shape)
    white = max(1.0, float(image.max()))
    around = f", in zeros {size_text(padded.shape)}" if padded.shape != image.shape else ""
    parts = {
        f"the image, {size_text(image.shape)}{around}": numbered(
            padded, cell=cell, palette="gray", low=0, high=white, boxes={inside: RIM, **window}
        ),
        f"the kernel, {size_text(kernel.shape)}": numbered(kernel, cell=cell),
        f"the output, {size_text(output.shape)}": numbered(output, cell=cell, boxes={(row, column, 1, 1): BOX}),
    }
    # Longer sums do not fit; the terminal prints them.
    title = step.text if kernel.size <= 9 else f"The sum of {kernel.size} products is {step.total:.4g}"
    return grid(list(parts.values()), columns=3, side=None, captions=list(parts), title=title)
