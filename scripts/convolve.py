"""Convolve images without a network: python scripts/convolve.py --image coins --kernel sobel_vertical blur."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError


def padding(word: str) -> int | str:
    """Parse the value of `--padding`."""
    try:
        return word if word in ("valid", "same") else int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be valid, same, or a number of pixels, got {word!r}") from None


def main() -> int:
    """Print output sizes and the paths of the images, or a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Without a selection, all images are drawn.")
    parser.add_argument(
        "--image",
        default="cat",
        help="file, or sample image: cat, astronaut, coins, brick, digit_3, ... (default: cat)",
    )
    parser.add_argument(
        "--kernel", nargs="+", default=[], help='names (blur), "all", or your own numbers: "1 0 -1; 2 0 -2; 1 0 -1"'
    )
    parser.add_argument("--stride", type=int, metavar="N", help="stride in pixels (default: 1; pooling: its size)")
    parser.add_argument("--padding", type=padding, default="valid", help="valid, same, or a number (default: valid)")
    parser.add_argument("--dilation", type=int, default=1, metavar="N", help="dilation of the kernel (default: 1)")
    parser.add_argument(
        "--step", type=int, nargs=2, metavar=("ROW", "COLUMN"), help="write out the sum at one output position"
    )
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("BLACK", "WHITE"), help="values shown as black and white, such as -4 4"
    )
    parser.add_argument("--gabor", nargs="+", default=[], metavar="F,THETA,SIGMA", help="such as 0.16,1.2,4.0")
    parser.add_argument("--bank", action="store_true", help="a bank of Gabor filters, one response for each")
    parser.add_argument("--pool", type=int, nargs="*", metavar="SIZE", help="max and average pooling (default: 2)")
    parser.add_argument("--colors", action="store_true", help="channels of RGB, grayscale, HSV and L*a*b*")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="compute the output size of a layer: IMAGE KERNEL [CHANNELS_IN CHANNELS_OUT]",
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/convolution"), help="default: outputs/convolution")
    arguments = parser.parse_args()
    try:
        from opsin.commands.convolve import ConvolveOptions, draw, read_image, sizes

        if arguments.sizes:
            stride = 1 if arguments.stride is None else arguments.stride
            lines = sizes(arguments.sizes, stride=stride, padding=arguments.padding, dilation=arguments.dilation)
            print("\n".join(lines))
            return 0
        options = ConvolveOptions(
            kernels=arguments.kernel,
            stride=arguments.stride,
            padding=arguments.padding,
            dilation=arguments.dilation,
            step=arguments.step,
            limits=arguments.range,
            gabors=arguments.gabor,
            bank=arguments.bank,
            pools=[2] if arguments.pool == [] else arguments.pool or [],
            colors=arguments.colors,
        )
        for line in draw(read_image(arguments.image), options, arguments.out):
            print(line)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
