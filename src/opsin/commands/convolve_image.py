"""Draw convolutions of an image: kernels, Gabor filters, pooling, color spaces and a single step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.interpretability.convolution import figures as pictures
from opsin.interpretability.convolution.convolution import (
    KERNELS,
    POOLINGS,
    Padding,
    convolve,
    parse_kernel,
    pool,
    worked_size,
)
from opsin.interpretability.convolution.gabor import EXAMPLES, parse_gabor
from opsin.interpretability.convolution.inspection import channel_table, summary
from opsin.interpretability.convolution.matrix_text import aligned_text
from opsin.interpretability.convolution.named_image import inspect_named
from opsin.interpretability.convolution.sample_images import gray
from opsin.interpretability.convolution.single_step import step_at
from opsin.runs.atomic import write_atomically, write_errors
from opsin.visualization.formatting import size_text
from opsin.visualization.images import Pixels, encode, fit

LARGEST_SIDE = 1024
"""Larger images are reduced to this side: in larger photographs, the effect of a kernel of 3 pixels is not visible."""

READABLE_SIDE = 32
"""Largest image in which the numbers of a single step are readable."""

SMALL_SIDE = 16
"""Largest image whose numbers are drawn in large squares."""


@dataclass(frozen=True)
class ConvolveOptions:
    """The images to draw; without any selection, all of them.

    Attributes:
        kernels: Names or numbers, as `parse_kernel` reads them; `all` stands for every name.
        stride: Stride of kernels and pooling; None takes 1 for kernels and the window size for pooling.
        padding: Padding of kernels.
        dilation: Dilation of kernels.
        step: Row and column of the output whose sum is written out, for the first kernel.
        value_range: Values of the kernel responses shown as black and as white.
        gabors: Gabor filters as `frequency,theta,sigma`.
        bank: Whether to draw a bank of Gabor filters.
        pools: Window sizes of pooling.
        colors: Whether to draw color spaces.
    """

    kernels: Sequence[str] = ()
    stride: int | None = None
    padding: Padding = "valid"
    dilation: int = 1
    step: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    gabors: Sequence[str] = ()
    bank: bool = False
    pools: Sequence[int] = ()
    colors: bool = False

    @property
    def draws_anything(self) -> bool:
        """Whether an image is selected."""
        return bool(self.kernels or self.step or self.gabors or self.bank or self.pools or self.colors)

    def or_all(self) -> "ConvolveOptions":
        """Return these options, or all images with the same stride, padding and dilation if none is selected."""
        if self.draws_anything:
            return self
        examples = [",".join(map(str, example)) for example in EXAMPLES]
        return replace(self, kernels=("all",), gabors=examples, bank=True, pools=(2, 4), colors=True)


def draw(image: NDArray[Any], options: ConvolveOptions, out: Path) -> Iterator[str]:
    """Write PNG files to a folder, and yield lines with the files and the computation of output sizes.

    Args:
        image: uint8 (H, W) or (H, W, 3), of which kernels, Gabor filters and pooling use grayscale values in [0, 1]; or
            float64 (H, W), whose numbers are used as they are, and whose results are printed.
        options: The images to draw.
        out: The folder, created if missing.

    Raises:
        UserError: A kernel, filter or size is invalid; or numbers are drawn as a photograph.
    """
    typed = image.dtype != np.uint8
    if typed and (not options.draws_anything or options.gabors or options.bank or options.colors):
        raise UserError("an image typed as numbers has --kernel, --pool, --step and --inspect only")
    if typed and options.value_range:
        raise UserError("--range has no effect on an image typed as numbers, whose results are numbers: leave it out")
    options = options.or_all()
    if options.value_range and not options.value_range[0] < options.value_range[1]:
        raise UserError("--range takes the value shown as black and a larger value shown as white, such as -4 4")
    if not typed and max(image.shape) > LARGEST_SIDE:
        image = fit(image, LARGEST_SIDE)
    values = image if typed else gray(image)
    yield f"the image: {size_text(values.shape)} pixels"
    if options.kernels:
        yield from _kernels(values, options, out, typed=typed)
    if options.step:
        yield from _step(values, options, options.step, out)
    if options.gabors:
        filters = [parse_gabor(text) for text in options.gabors]
        yield _written(pictures.gabor_picture(values, filters), out / "gabor.png")
    if options.bank:
        yield _written(pictures.bank_picture(values), out / "gabor_bank.png")
    if options.pools:
        yield from _pools(values, options, out, typed=typed)
    if options.colors:
        yield _written(pictures.color_picture(image), out / "colors.png")


def inspect(name: str, data_dir: str | None, pixel: tuple[int, int] | None) -> list[str]:
    """Return lines with the shape, the type and the channels of an image, and the values of one pixel.

    Args:
        name: The image, as `named_image` reads it.
        data_dir: As for `named_image`.
        pixel: Row and column of the pixel; None for none.

    Raises:
        UserError: There is no such image or pixel.
    """
    image = inspect_named(name, data_dir)
    rows = channel_table(image, pixel)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [summary(image), *("  ".join(_cells(row, widths)).rstrip() for row in rows)]


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield the cells of a row of a table; names are on the left, numbers on the right."""
    for i, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if i < 3 else text.rjust(width)


def _kernels(values: NDArray[np.float64], options: ConvolveOptions, out: Path, *, typed: bool) -> Iterator[str]:
    kernels = _named(options.kernels)
    stride = 1 if options.stride is None else options.stride
    how: dict[str, Any] = {"stride": stride, "padding": options.padding, "dilation": options.dilation}
    for shape in dict.fromkeys(kernel.shape for kernel in kernels.values()):
        size = f"kernel {size_text(shape)}, stride {stride}, padding {options.padding}, dilation {options.dilation}"
        yield f"{size}: {_worked(values, shape, **how)}"
    if typed:
        results = {name: convolve(values, kernel, **how) for name, kernel in kernels.items()}
        yield from _numbers(values, results, kernels, out / "kernels.png")
    else:
        picture = pictures.kernel_picture(values, kernels, value_range=options.value_range, **how)
        yield _written(picture, out / "kernels.png")


def _pools(values: NDArray[np.float64], options: ConvolveOptions, out: Path, *, typed: bool) -> Iterator[str]:
    for size in options.pools:
        stride = size if options.stride is None else options.stride
        how: dict[str, Any] = {"stride": stride, "padding": "valid", "dilation": 1}
        yield f"pooling {size} x {size} at stride {stride}: {_worked(values, (size, size), **how)}"
    if typed:
        results = {
            f"{kind} of {size} x {size}": pool(values, size, options.stride, kind)
            for size in options.pools
            for kind in POOLINGS
        }
        yield from _numbers(values, results, {}, out / "pooling.png")
    else:
        yield _written(pictures.pool_picture(values, options.pools, options.stride), out / "pooling.png")


def _numbers(
    image: NDArray[np.float64],
    results: dict[str, NDArray[np.float64]],
    kernels: dict[str, NDArray[np.float64]],
    path: Path,
) -> Iterator[str]:
    """Yield results as numbers, and draw each of them next to its kernel."""
    drawn = {"the image": image}
    for name, result in results.items():
        yield f"{name}:\n{indent(aligned_text(result), '  ')}"
        drawn |= {f"kernel {name}": kernels[name], name: result} if name in kernels else {name: result}
    yield _written(pictures.numbers_picture(drawn, "the image", columns=3), path)


def _step(values: NDArray[np.float64], options: ConvolveOptions, position: tuple[int, int], out: Path) -> Iterator[str]:
    ((name, kernel), *_) = _named(options.kernels or ["vertical"]).items()
    stride = 1 if options.stride is None else options.stride
    how: dict[str, Any] = {"stride": stride, "padding": options.padding, "dilation": options.dilation}
    step = step_at(values, kernel, *position, **how)
    yield f"{name} at row {position[0]}, column {position[1]}: {step.text}"
    if max(values.shape) > READABLE_SIDE:
        yield f"no image of the step: its numbers are readable only up to {READABLE_SIDE} pixels, as in --image digit_3"
    else:
        cell = 40 if max(values.shape) <= SMALL_SIDE else 26
        yield _written(pictures.step_picture(values, kernel, *position, **how, cell=cell), out / "step.png")


def _named(texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    kernels = {}
    for text in texts:
        kernels.update(KERNELS if text.strip().lower() == "all" else {text.strip(): parse_kernel(text)})
    return kernels


def _worked(values: NDArray[np.float64], kernel: tuple[int, ...], **how: Any) -> str:
    sides = [worked_size(side, extent, **how) for side, extent in zip(values.shape, kernel, strict=True)]
    return sides[0] if sides[0] == sides[1] else f"\n  height {sides[0]}\n  width  {sides[1]}"


def _written(picture: Pixels, path: Path) -> str:
    with write_errors(path, "--out"):
        write_atomically(path, encode(picture))
    return str(path)
