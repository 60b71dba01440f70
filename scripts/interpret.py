"""Explain a trained network: python scripts/interpret.py outputs/latest --what gradcam [--images PHOTOS]."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError

KINDS = "kernels, activations, filters, gradcam, cam, integrated_gradients, occlusion, errors"


def main() -> int:
    """Write images and print their descriptions, or a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest, or a network: efficientnet_lite0")
    parser.add_argument("data", nargs="*", help="images to use instead of the run's own, as for scripts/embed.py")
    parser.add_argument("--what", nargs="+", required=True, metavar="KIND", help=KINDS)
    parser.add_argument(
        "--images", nargs="+", default=(), metavar="PATH", help="files or folders (default: validation)"
    )
    parser.add_argument("--stage", help="a stage, a layer in it (block1.conv), or head.fc for filters of classes")
    parser.add_argument("--out", type=Path, help="the folder to write to (default: RUN/interpretation)")
    parser.add_argument("--tensorboard", action="store_true", help="write the images to TensorBoard too")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="number of images, filters or errors")
    filters = parser.add_argument_group("filters by gradient ascent")
    filters.add_argument(
        "--channels", type=int, nargs="+", default=(), metavar="N", help="filters (default: evenly spaced)"
    )
    filters.add_argument("--steps", type=int, metavar="N", help="steps of Adam at every size (default: 100 or 20)")
    filters.add_argument(
        "--upscalings", type=int, metavar="N", help="number of upscalings by 1.2 (default: up to the input size)"
    )
    filters.add_argument("--size", type=int, metavar="N", help="initial side in pixels (default: 56 or the input size)")
    filters.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the noise")
    errors = parser.add_argument_group("errors")
    errors.add_argument("--split", choices=("val", "test"), default="val", help="split to analyze (default: val)")
    errors.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help="approximate number of training images whose labels are checked; 0 for none (default: all up to 5000)",
    )
    arguments = parser.parse_intermixed_args()
    try:
        from opsin.commands.interpret import interpret

        ascent = {name: getattr(arguments, name) for name in ("channels", "steps", "upscalings", "size", "seed")}
        mistakes = {"split": arguments.split, "train_images": arguments.train_images}
        lines = interpret(
            arguments.run,
            arguments.data,
            what=arguments.what,
            images=arguments.images,
            stage=arguments.stage,
            out=arguments.out,
            tensorboard=arguments.tensorboard,
            count=arguments.count,
            ascent=ascent,
            errors={name: value for name, value in mistakes.items() if value is not None},
        )
        for line in lines:
            print(line, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
