"""Draw convolutions without a network: `opsin convolve`."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.interpretability.convolution import figures as pictures
from opsin.interpretability.convolution.convolution import (
    KERNELS,
    Padding,
    output_size,
    parameter_count,
    parse_kernel,
    reach,
    step_at,
    worked_size,
)
from opsin.interpretability.convolution.gabor import EXAMPLES, parse_gabor
from opsin.interpretability.convolution.sample_images import gray, sample, sample_names
from opsin.runs.atomic import write_atomically, write_errors
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.home import user_path
from opsin.visualization.images import Pixels, encode, fit

LARGEST_SIDE = 1024
"""Larger images are reduced to this side: in larger photographs, the effect of a kernel of 3 pixels is not visible."""

READABLE_SIDE = 16


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the calculated sizes and the paths of the pictures."""
    options = _parser().parse_intermixed_args(arguments)
    padding = _padding(options.padding)
    if options.sizes:
        stride = 1 if options.stride is None else options.stride
        print("\n".join(sizes(options.sizes, stride=stride, padding=padding, dilation=options.dilation)))
        return 0
    chosen = ConvolveOptions(
        kernels=options.kernel,
        stride=options.stride,
        padding=padding,
        dilation=options.dilation,
        step=options.step,
        value_range=options.range,
        gabors=options.gabor,
        bank=options.bank,
        pools=[2] if options.pool == [] else options.pool or [],
        colors=options.colors,
    )
    for line in draw(read_image(options.image), chosen, options.out):
        print(line)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("convolve", epilog="Without options, draw everything for the image.")
    parser.add_argument(
        "--image", default="cat", help="a file, or a sample: cat, astronaut, coins, brick, digit_3, ... (default: cat)"
    )
    parser.add_argument(
        "--kernel", nargs="+", default=[], help='names (blur), "all", or numbers: "1 0 -1; 2 0 -2; 1 0 -1"'
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="step between positions (default: 1; pooling: the window size)"
    )
    parser.add_argument("--padding", default="valid", help="valid, same, or a number (default: valid)")
    parser.add_argument("--dilation", type=int, default=1, metavar="N", help="step between the numbers of a kernel")
    parser.add_argument(
        "--step",
        type=int,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="print the sum at one output position; draw it for small images",
    )
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("BLACK", "WHITE"), help="values drawn as black and as white"
    )
    parser.add_argument(
        "--gabor",
        nargs="+",
        default=[],
        metavar="F,THETA,SIGMA",
        help="filters as frequency,theta,sigma, such as 0.16,1.2,4.0",
    )
    parser.add_argument("--bank", action="store_true", help="draw a bank of Gabor filters and the response to each")
    parser.add_argument("--pool", type=int, nargs="*", metavar="SIZE", help="max and average pooling (default: 2)")
    parser.add_argument("--colors", action="store_true", help="RGB, gray, HSV and L*a*b*, channel by channel")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="calculate a layer: IMAGE KERNEL [CHANNELS_IN CHANNELS_OUT]"
    )
    parser.add_argument(
        "--out",
        type=user_path,
        default=Path(OUTPUT_DIR, "convolution"),
        help="the folder to write to (default: outputs/convolution)",
    )
    return parser


def _padding(value: str) -> Padding:
    try:
        return value if value in ("valid", "same") else int(value)  # type: ignore[return-value]
    except ValueError:
        raise UserError(f"--padding must be valid, same or a number of pixels, got {value}") from None


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

    def or_all(self) -> "ConvolveOptions":
        """Return these options, or all images with the same stride, padding and dilation if none is selected."""
        if self.kernels or self.step or self.gabors or self.bank or self.pools or self.colors:
            return self
        examples = [",".join(map(str, example)) for example in EXAMPLES]
        return replace(self, kernels=("all",), gabors=examples, bank=True, pools=(2, 4), colors=True)


def read_image(name: str) -> Pixels:
    """Read a sample image by name, or an image file by path; its longer side is reduced to 1,024 pixels.

    Raises:
        UserError: There is no such sample or file, or the file is not an image.
    """
    if name in sample_names():
        return sample(name)
    path = user_path(name)
    if not path.is_file():
        raise UserError(f"{name} is neither a file nor a sample image; the samples are {', '.join(sample_names())}")
    from opsin.data.decode import decode_image  # imports torch, which takes seconds
    from opsin.data.types import BadImage

    try:
        pixels = decode_image(path, 3)
    except BadImage as error:
        raise UserError(f"{path}: {error}. Use another file, or a sample such as cat") from None
    return fit(pixels, LARGEST_SIDE) if max(pixels.shape) > LARGEST_SIDE else pixels


def draw(image: Pixels, options: ConvolveOptions, out: Path) -> Iterator[str]:
    """Write PNG files to a folder, and yield lines with the files and the computation of output sizes.

    Args:
        image: uint8 (H, W) or (H, W, 3). Kernels, Gabor filters and pooling use grayscale values in [0, 1].
        options: The images to draw.
        out: The folder, created if missing.

    Raises:
        UserError: A kernel, filter or size is invalid.
    """
    options = options.or_all()
    if options.value_range and not options.value_range[0] < options.value_range[1]:
        raise UserError("--range takes the value shown as black and a larger value shown as white, such as -4 4")
    values = gray(image)
    yield f"the image: {values.shape[0]} x {values.shape[1]} pixels"
    if options.kernels:
        yield from _kernels(values, options, out)
    if options.step:
        yield from _step(values, options, options.step, out)
    if options.gabors:
        filters = [parse_gabor(text) for text in options.gabors]
        yield _written(pictures.gabor_picture(values, filters), out / "gabor.png")
    if options.bank:
        yield _written(pictures.bank_picture(values), out / "gabor_bank.png")
    if options.pools:
        for size in options.pools:
            stride = size if options.stride is None else options.stride
            yield f"pooling {size} x {size} at stride {stride}: {_worked(values, (size, size), stride, 'valid', 1)}"
        yield _written(pictures.pool_picture(values, options.pools, options.stride), out / "pooling.png")
    if options.colors:
        yield _written(pictures.color_picture(image), out / "colors.png")


def _kernels(values: NDArray[np.float64], options: ConvolveOptions, out: Path) -> Iterator[str]:
    kernels = _named(options.kernels)
    stride = 1 if options.stride is None else options.stride
    for shape in dict.fromkeys(kernel.shape for kernel in kernels.values()):
        size = (
            f"kernel {shape[0]} x {shape[1]}, stride {stride}, padding {options.padding}, dilation {options.dilation}"
        )
        yield f"{size}: {_worked(values, shape, stride, options.padding, options.dilation)}"
    picture = pictures.kernel_picture(
        values,
        kernels,
        stride=stride,
        padding=options.padding,
        dilation=options.dilation,
        value_range=options.value_range,
    )
    yield _written(picture, out / "kernels.png")


def _step(values: NDArray[np.float64], options: ConvolveOptions, position: tuple[int, int], out: Path) -> Iterator[str]:
    ((name, kernel), *_) = _named(options.kernels or ["sobel_vertical"]).items()
    stride = 1 if options.stride is None else options.stride
    how: dict[str, Any] = {"stride": stride, "padding": options.padding, "dilation": options.dilation}
    step = step_at(values, kernel, *position, **how)
    yield f"{name} at row {position[0]}, column {position[1]}: {step.text}"
    if max(values.shape) > READABLE_SIDE:
        yield f"no image of the step: its numbers are readable only up to {READABLE_SIDE} pixels, as in --image digit_3"
    else:
        yield _written(pictures.step_picture(values, kernel, *position, **how), out / "step.png")


def _named(texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    kernels = {}
    for text in texts:
        kernels.update(KERNELS if text.strip().lower() == "all" else {text.strip(): parse_kernel(text)})
    return kernels


def _worked(values: NDArray[np.float64], kernel: tuple[int, ...], stride: int, padding: Padding, dilation: int) -> str:
    sides = [
        worked_size(side, extent, stride=stride, padding=padding, dilation=dilation)
        for side, extent in zip(values.shape, kernel, strict=True)
    ]
    return sides[0] if sides[0] == sides[1] else f"\n  height {sides[0]}\n  width  {sides[1]}"


def _written(picture: Pixels, path: Path) -> str:
    with write_errors(path, "--out"):
        write_atomically(path, encode(picture))
    return str(path)


def sizes(numbers: Sequence[int], *, stride: int = 1, padding: Padding = "valid", dilation: int = 1) -> list[str]:
    """Return lines with the computation of a layer's output size, parameters and multiply-adds.

    Args:
        numbers: Image side and kernel size, optionally followed by the numbers of input and output channels.
        stride: Stride of the layer.
        padding: Padding of the layer.
        dilation: Dilation of the layer.

    Raises:
        UserError: There are neither two nor four numbers, or a size is invalid.
    """
    if len(numbers) not in (2, 4) or min(numbers) < 1:
        raise UserError("--sizes takes IMAGE KERNEL, or IMAGE KERNEL CHANNELS_IN CHANNELS_OUT, such as 32 3 32 64")
    size, kernel = numbers[:2]
    worked = worked_size(size, kernel, stride=stride, padding=padding, dilation=dilation)
    side = output_size(size, kernel, stride=stride, padding=padding, dilation=dilation)
    lines = [f"{size} x {size} with {kernel} x {kernel}: {worked}"]
    if dilation > 1:
        lines.append(f"the kernel still has {kernel} x {kernel} numbers and covers {reach(kernel, dilation)} pixels")
    if len(numbers) == 4:
        channels_in, channels_out = numbers[2:]
        count = parameter_count(kernel, channels_in, channels_out)
        lines.append(f"parameters: ({kernel}·{kernel}·{channels_in} + 1)·{channels_out} = {count:,}")
        work = kernel * kernel * channels_in * channels_out * side * side
        lines.append(f"multiply-adds: {kernel}·{kernel}·{channels_in}·{channels_out}·{side}·{side} = {work:,}")
    return lines
