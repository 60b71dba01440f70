"""Pictures of convolutions by hand: kernels and what they answer, Gabor filters, pooling, colours, one step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from opsin.insight.colours import colour_pictures
from opsin.insight.convolution import Padding, convolve, paddings, pool, reach, step_at
from opsin.insight.gabor import Gabor, gabor, gabor_bank, responses
from opsin.pictures import Pixels, Values, coloured, grid, rgb, stretched

LECTURE_LIMITS = (-4.0, 4.0)
"""From black to white in the lectures' pictures of filtered digits."""

DIGIT_SIDE = 64
"""Images up to this side are shown as the lectures show digits."""

SIGNED = "RdBu_r"
BOX = (232, 119, 34)


def limits(image: Values, kernel: Values, response: Values) -> tuple[float, float]:
    """The values shown black and white.

    A kernel whose numbers add up to 1 gives an image again, in [0, 1]. Digits are shown from -4 to 4. A photograph's
    edges are small: there the largest but the strongest 0.5 % are white, and their negatives black.

    Args:
        image: (H, W) in [0, 1].
        kernel: What was applied.
        response: What came of it.
    """
    total = float(kernel.sum())
    if abs(total - 1) < 1e-6:
        return 0.0, 1.0
    if max(image.shape) <= DIGIT_SIDE:
        return LECTURE_LIMITS
    if abs(total) > 1e-6:
        return min(total, 0.0), max(total, 0.0)
    most = float(np.quantile(np.abs(response), 0.995)) or 1.0
    return -most, most


def numbered(
    values: Values,
    *,
    cell: int = 36,
    palette: str = SIGNED,
    low: float | None = None,
    high: float | None = None,
    box: tuple[int, int, int, int] | None = None,
) -> Pixels:
    """A small array as coloured squares with its numbers on them.

    Args:
        values: (H, W).
        cell: Side of a square in pixels.
        palette: One of matplotlib's.
        low: The value of the palette's first colour; None: as far below zero as `high` is above.
        high: None: the largest magnitude.
        box: Outlined squares as (top, left, height, width).
    """
    most = float(np.abs(values).max()) or 1.0
    high = most if high is None else high
    low = -high if low is None else low
    colours = coloured(values, palette, low, high)
    canvas = Image.fromarray(np.kron(colours, np.ones((cell, cell, 1), np.uint8)))
    pen = ImageDraw.Draw(canvas)
    texts = [[_short(value) for value in row] for row in np.asarray(values, np.float64).tolist()]
    longest = max(len(text) for row in texts for text in row)
    font = ImageFont.load_default(max(8, min(cell * 0.4, 1.5 * cell / longest)))
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            ink = (0, 0, 0) if colours[i, j] @ np.array([0.299, 0.587, 0.114]) > 120 else (255, 255, 255)
            pen.text(((j + 0.5) * cell, (i + 0.5) * cell), text, fill=ink, font=font, anchor="mm")
    for place in range(1, max(values.shape)):
        pen.line([(0, place * cell), (canvas.width, place * cell)], fill=(190, 190, 190))
        pen.line([(place * cell, 0), (place * cell, canvas.height)], fill=(190, 190, 190))
    if box:
        top, left, height, width = (extent * cell for extent in box)
        pen.rectangle([left, top, left + width - 1, top + height - 1], outline=BOX, width=max(2, cell // 10))
    return np.asarray(canvas)


def _short(value: float) -> str:
    if abs(value) >= 10 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}".rstrip("0") if abs(value) < 1 else f"{value:.1f}"


def _kernel_tile(kernel: Values, side: int) -> Pixels:
    if max(kernel.shape) <= 7:
        return numbered(kernel, cell=side // max(kernel.shape))
    most = float(np.abs(kernel).max()) or 1.0
    return coloured(kernel, SIGNED, -most, most)


def _size(values: Values) -> str:
    return f"{values.shape[0]} x {values.shape[1]}"


def kernel_picture(
    image: Values,
    kernels: Mapping[str, Values],
    *,
    stride: int = 1,
    padding: Padding = "valid",
    dilation: int = 1,
    shown_from: tuple[float, float] | None = None,
    side: int = 220,
) -> Pixels:
    """The image, then each kernel beside what it makes of it.

    Args:
        image: (H, W) in [0, 1].
        kernels: By name.
        stride: As for `convolve`.
        padding: As for `convolve`.
        dilation: As for `convolve`.
        shown_from: The values shown black and white; None: see `limits`.
        side: Of each picture, in pixels.
    """
    pictures, captions = [stretched(image, 0, 1)], [f"the image\n{_size(image)}\nshown 0 to 1"]
    for name, kernel in kernels.items():
        response = convolve(image, kernel, stride=stride, padding=padding, dilation=dilation)
        low, high = shown_from or limits(image, kernel, response)
        pictures += [_kernel_tile(kernel, side), stretched(response, low, high)]
        captions += [f"{name}\n{_size(kernel)}", f"{name}\n{_size(response)}\nshown {low:.3g} to {high:.3g}"]
    if len(kernels) == 1:
        return grid(pictures, columns=3, side=side, captions=captions)
    # One kernel and its response are never torn apart; the image stands alone above them.
    top = grid(pictures[:1], side=side, captions=captions[:1])
    return stacked([top, grid(pictures[1:], columns=min(6, 2 * len(kernels)), side=side, captions=captions[1:])])


def stacked(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures one under the other on white, from the left edge."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [
            np.pad(rgb(picture), [(0, 0), (0, width - picture.shape[1]), (0, 0)], constant_values=255)
            for picture in pictures
        ]
    )


def gabor_picture(image: Values, filters: Sequence[Gabor], side: int = 220) -> Pixels:
    """Each filter in a row: its real and imaginary part, and the magnitude of its answer to the image."""
    bank = {filter_: gabor(*filter_) for filter_ in filters}
    pictures: list[Pixels] = []
    captions: list[str] = []
    for filter_, response in responses(image, bank).items():
        kernel = bank[filter_]
        most = float(np.abs(kernel).max())
        pictures += [coloured(part, SIGNED, -most, most) for part in (kernel.real, kernel.imag)]
        pictures += [stretched(image, 0, 1), stretched(response)]
        captions += [f"{filter_}\nreal, {_size(kernel)}", "imaginary", f"the image\n{_size(image)}"]
        captions += [f"magnitude, {_size(response)}\nshown {response.min():.2g} to {response.max():.2g}"]
    return grid(pictures, columns=4, side=side, captions=captions)


def bank_picture(
    image: Values, bank: Mapping[Gabor, NDArray[Any]] | None = None, columns: int = 6, side: int = 150
) -> Pixels:
    """A bank of filters: a row of real parts, under it what each answers, and so on.

    Args:
        image: (H, W) in [0, 1].
        bank: None: `gabor_bank()`.
        columns: Filters in a row.
        side: Of each picture, in pixels.
    """
    bank = gabor_bank() if bank is None else dict(bank)
    answers = responses(image, dict(bank))
    brightest = max(float(np.quantile(answer, 0.999)) for answer in answers.values()) or 1.0
    filters, rows = list(bank), []
    for start in range(0, len(filters), columns):
        row = filters[start : start + columns]
        kernels = [coloured(bank[f].real, SIGNED, -abs(bank[f]).max(), abs(bank[f]).max()) for f in row]
        rows.append(grid(kernels, columns=columns, side=side, captions=[str(f) for f in row]))
        rows.append(grid([stretched(answers[f], 0, brightest) for f in row], columns=columns, side=side))
    title = f"Magnitudes of {len(filters)} Gabor filters, all shown from 0 to {brightest:.2g}"
    return stacked([grid([stretched(image, 0, 1)], side=2 * side, captions=[_size(image)], title=title), *rows])


def pool_picture(image: Values, sizes: Sequence[int], stride: int | None = None, side: int = 220) -> Pixels:
    """The image, then for each window size the largest and the average values, in visible squares."""
    pictures, captions = [], []
    for size in sizes:
        for kind, values in (
            ("the image", image),
            (f"max of {size} x {size}", pool(image, size, stride, "max")),
            (f"average of {size} x {size}", pool(image, size, stride, "average")),
        ):
            pictures.append(stretched(values, 0, 1))
            captions.append(f"{kind}\n{_size(values)}")
    return grid(pictures, columns=3, side=side, captions=captions)


def colour_picture(image: Pixels, side: int = 220) -> Pixels:
    """The image, then its channels in RGB, grey, HSV and L*a*b*."""
    pictures = {"the image": rgb(image), **colour_pictures(image)}
    spaces = ["RGB"] * 4 + ["ITU-R 601"] + ["HSV"] * 3 + ["L*a*b*"] * 3
    captions = [f"{name}\n{space}" for name, space in zip(pictures, spaces, strict=True)]
    first = grid(list(pictures.values())[:5], columns=5, side=side, captions=captions[:5])
    return stacked([first, grid(list(pictures.values())[5:], columns=6, side=side, captions=captions[5:])])


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
    """The image with the window outlined, the kernel, and the output with the value that they give.

    For images of up to 16 pixels, whose numbers can be read; raises as `step_at`.
    """
    words: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    step = step_at(image, kernel, row, column, **words)
    output = convolve(image, kernel, **words)
    zeros = [paddings(side, extent, **words) for side, extent in zip(image.shape, kernel.shape, strict=True)]
    window = (
        step.top + zeros[0][0],
        step.left + zeros[1][0],
        reach(kernel.shape[0], dilation),
        reach(kernel.shape[1], dilation),
    )
    padded = np.pad(image, zeros)
    parts = {
        f"the image, {_size(image)}"
        + (f", with zeros {_size(padded)}" if padded.shape != image.shape else ""): numbered(
            padded, cell=cell, palette="gray", low=0, high=max(1.0, float(image.max())), box=window
        ),
        f"the kernel, {_size(kernel)}": numbered(kernel, cell=cell),
        f"the output, {_size(output)}": numbered(output, cell=cell, box=(row, column, 1, 1)),
    }
    side = cell * max(padded.shape + kernel.shape + output.shape)
    framed = [
        np.pad(part, [(0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)], constant_values=255)
        for part in parts.values()
    ]
    # A sum of more than nine products is wider than the picture; the terminal has it.
    title = step.text if kernel.size <= 9 else f"The sum of {kernel.size} products is {step.total:.4g}"
    return grid(framed, columns=3, side=side, captions=list(parts), title=title)
