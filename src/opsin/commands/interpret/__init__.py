"""Visualize what a network has learned: `opsin interpret`."""

import argparse
from typing import Any

from opsin.commands.command_line import add_checkpoint_option, command, command_parser
from opsin.runs.home import user_path

KINDS = "kernels, activations, filters, gradcam, cam, integrated_gradients, occlusion, errors"


@command
def main(arguments: list[str] | None = None) -> int:
    """Write pictures, and print their paths and the values measured."""
    options = _parser().parse_intermixed_args(arguments)
    from opsin.commands.interpret.interpretation import interpret

    lines = interpret(
        options.run,
        options.data,
        what=options.what,
        images=options.images,
        stage=options.stage,
        out=options.out,
        tensorboard=options.tensorboard,
        count=options.count,
        checkpoint=options.checkpoint,
        ascent=_given(options, "channels", "steps", "upscalings", "size", "seed"),
        errors=_given(options, "split", "train_images"),
    )
    for line in lines:
        print(line, flush=True)
    return 0


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the values of those options that are given."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("interpret")
    parser.add_argument("run", help="a run directory, such as outputs/latest, or a network: efficientnet_lite0")
    parser.add_argument(
        "data", nargs="*", default=[], help="images to use instead of those of the run, as for the command embed"
    )
    parser.add_argument("--what", nargs="+", required=True, metavar="KIND", help=KINDS)
    parser.add_argument(
        "--images",
        nargs="+",
        default=(),
        metavar="PATH",
        help="files, folders (with subfolders), globs (default: validation images)",
    )
    parser.add_argument("--stage", help="a stage, a layer in it (block1.conv), or head.fc for the filters of classes")
    parser.add_argument(
        "--out", type=user_path, metavar="FOLDER", help="the folder to write to (default: RUN/interpretation)"
    )
    parser.add_argument("--tensorboard", action="store_true", help="also add the pictures to the run's TensorBoard")
    parser.add_argument("--count", type=int, metavar="N", help="number of images, filters or errors (default: 8)")
    add_checkpoint_option(parser)
    filters = parser.add_argument_group("filters by gradient ascent")
    filters.add_argument("--channels", type=int, nargs="+", metavar="N", help="channels to show (default: a selection)")
    filters.add_argument("--steps", type=int, metavar="N", help="Adam steps at each size (default: 100 or 20)")
    filters.add_argument(
        "--upscalings", type=int, metavar="N", help="upscalings by 1.2 (default: up to the input size of the network)"
    )
    filters.add_argument("--size", type=int, metavar="N", help="initial side in pixels (default: 56 or the input size)")
    filters.add_argument("--seed", type=int, metavar="N", help="seed of the noise (default: 0)")
    errors = parser.add_argument_group("errors")
    errors.add_argument("--split", choices=("val", "test"), help="the images to look for errors in (default: val)")
    errors.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help="check the labels of about N training images; 0: none (default: all, up to 5000)",
    )
    return parser
