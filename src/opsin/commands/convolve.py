"""Draw convolutions without a network: `opsin convolve`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from opsin.commands.command_line import command, command_parser
from opsin.commands.convolve_image import ConvolveOptions, draw, inspect
from opsin.errors import UserError
from opsin.interpretability.convolution.convolution import Padding, output_size, parameter_count, reach, worked_size
from opsin.interpretability.convolution.named_image import named_image
from opsin.runs.directory import OUTPUT_DIR
from opsin.runs.home import user_path

SELECTIONS = ("kernel", "step", "gabor", "bank", "pool", "colors", "inspect")
"""Options that select the pictures and the printed values; without any of them, all pictures are drawn."""

AFFECTED = {
    "stride": ("kernel", "step", "pool", "sizes"),
    "padding": ("kernel", "step", "sizes"),
    "dilation": ("kernel", "step", "sizes"),
    "range": ("kernel",),
}
"""The selections that an option has an effect on."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Print the calculated sizes and the paths of the pictures."""
    options = _parser().parse_intermixed_args(arguments)
    _check_effects(options)
    padding = _padding(options.padding)
    image = "cat" if options.image is None else options.image
    dilation = 1 if options.dilation is None else options.dilation
    if options.sizes:
        stride = 1 if options.stride is None else options.stride
        print("\n".join(sizes(options.sizes, stride=stride, padding=padding, dilation=dilation)))
        return 0
    chosen = ConvolveOptions(
        kernels=options.kernel or [],
        stride=options.stride,
        padding=padding,
        dilation=dilation,
        step=options.step,
        value_range=options.range,
        gabors=options.gabor or [],
        bank=options.bank,
        pools=[2] if options.pool == [] else options.pool or [],
        colors=options.colors,
    )
    if options.inspect is not None:
        print("\n".join(inspect(image, options.data_dir, _pixel(options.inspect))))
        if not chosen.draws_anything:
            return 0
    for line in draw(named_image(image, options.data_dir), chosen, options.out):
        print(line)
    return 0


def _check_effects(options: argparse.Namespace) -> None:
    """Check that each given option has an effect.

    Raises:
        UserError: An option has no effect.
    """
    given = [name for name, value in vars(options).items() if value is not None and value is not False]
    if "sizes" in given and (others := [name for name in ("image", *SELECTIONS, "range") if name in given]):
        raise UserError(f"--{others[0]} has no effect with --sizes, which reads no image: leave out one of them")
    chosen = {"sizes", *SELECTIONS} & set(given)
    for name in AFFECTED if chosen else ():
        if name in given and not chosen & set(AFFECTED[name]):
            affected = ", ".join(f"--{selection}" for selection in AFFECTED[name])
            raise UserError(f"--{name} has an effect on {affected} only: add one of them, or leave --{name} out")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("convolve", epilog="Without options, draw everything for the image.")
    parser.add_argument(
        "--image",
        help="a file; a sample: cat, astronaut, coins, brick, digit_3, ...; a training image of a dataset: mnist:7; or "
        'numbers: "1 2; 3 4" (default: cat)',
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="the folder of the datasets (default: data)")
    parser.add_argument("--kernel", nargs="+", help='names (blur), "all", or numbers: "1 0 -1; 2 0 -2; 1 0 -1"')
    parser.add_argument(
        "--stride", type=int, metavar="N", help="step between positions (default: 1; pooling: the window size)"
    )
    parser.add_argument("--padding", help="valid, same, or a number (default: valid)")
    parser.add_argument("--dilation", type=int, metavar="N", help="step between the numbers of a kernel (default: 1)")
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
        metavar="F,THETA,SIGMA",
        help="filters as frequency,theta,sigma, such as 0.16,1.2,4.0",
    )
    parser.add_argument("--bank", action="store_true", help="draw a bank of Gabor filters and the response to each")
    parser.add_argument("--pool", type=int, nargs="*", metavar="SIZE", help="max and average pooling (default: 2)")
    parser.add_argument(
        "--inspect",
        type=int,
        nargs="*",
        metavar="ROW COLUMN",
        help="print shape, type and range of each channel, and the values of one pixel",
    )
    parser.add_argument("--colors", action="store_true", help="RGB, gray, HSV and L*a*b*, channel by channel")
    parser.add_argument(
        "--sizes", type=int, nargs="+", metavar="N", help="calculate a layer: IMAGE KERNEL [CHANNELS_IN CHANNELS_OUT]"
    )
    parser.add_argument(
        "--out",
        type=user_path,
        default=Path(OUTPUT_DIR, "convolution"),
        metavar="FOLDER",
        help="the folder to write to (default: %(default)s)",
    )
    return parser


def _pixel(numbers: Sequence[int]) -> tuple[int, int] | None:
    if len(numbers) not in (0, 2):
        raise UserError(f"--inspect takes nothing, or ROW COLUMN of one pixel, got {len(numbers)} numbers")
    return (numbers[0], numbers[1]) if numbers else None


def _padding(value: str | None) -> Padding:
    if value is None:
        return "valid"
    try:
        return value if value in ("valid", "same") else int(value)  # type: ignore[return-value]
    except ValueError:
        raise UserError(f"--padding must be valid, same or a number of pixels, got {value}") from None


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
