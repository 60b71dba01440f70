"""Write what a network makes of images: python scripts/embed.py outputs/latest [datamodule=cats_vs_dogs | FOLDER]."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError


def main() -> int:
    """Print where the embeddings are, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest, or a network: efficientnet_lite0")
    parser.add_argument(
        "data",
        nargs="*",
        help="nothing: the run's own images; a folder of images, with class folders or without; or words of train.py, "
        "such as datamodule=cats_vs_dogs datamodule.path=PHOTOS data_dir=PATH",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder to write to (default: RUN/embeddings, other images: a folder in it)"
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels (default: what it learned from)")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="all")
    parser.add_argument("--format", nargs="+", choices=("npz", "parquet"), default=("npz", "parquet"))
    parser.add_argument(
        "--head",
        choices=("logistic_regression", "knn"),
        help="fit it on train, choose its parameter on val, measure it on test",
    )
    arguments = parser.parse_intermixed_args()
    try:
        from opsin.commands.embed import embed

        lines = embed(
            arguments.run,
            arguments.data,
            image_size=arguments.image_size,
            split=arguments.split,
            out=arguments.out,
            formats=arguments.format,
            head=arguments.head,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
