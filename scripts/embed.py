"""Write embeddings of images: python scripts/embed.py outputs/latest [datamodule=cats_vs_dogs | FOLDER]."""

import argparse
import sys
from pathlib import Path

from opsin.errors import UserError


def main() -> int:
    """Print the paths of the embeddings, or a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest, or a network: efficientnet_lite0")
    parser.add_argument(
        "data",
        nargs="*",
        help="a folder of images, with or without class folders, or overrides as for train.py, such as "
        "datamodule=cats_vs_dogs datamodule.path=PHOTOS data_dir=PATH (default: the run's own images)",
    )
    parser.add_argument(
        "--out", type=Path, help="the folder to write to (default: RUN/embeddings, other images: a folder in it)"
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels (default: as in training)")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="all")
    parser.add_argument("--format", nargs="+", choices=("npz", "parquet"), default=("npz", "parquet"))
    parser.add_argument(
        "--head",
        choices=("logistic_regression", "knn"),
        help="classifier to fit on train, select on val and test on test",
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
