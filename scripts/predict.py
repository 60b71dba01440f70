"""Tell the classes of images: python scripts/predict.py outputs/latest photo.jpg FOLDER 'photos/**/*.png' --top 3."""

import argparse
import os
import sys
from pathlib import Path

from opsin.errors import UserError


def main() -> int:
    """Print a table, and what is wrong with bad images; 1 where not one image could be told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders (with those in them; what is clearly no image, such as .txt, is passed over), globs",
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="how many classes to tell of each (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every row to it: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "parquet"), help="of --out; without it, rows go to the standard output"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images computed at once (default: up to 256)")
    arguments = parser.parse_intermixed_args()
    try:
        from opsin.commands.predict import predict_files
        from opsin.training.quiet_logging import quieten

        quieten(True)
        told = predict_files(
            arguments.run,
            arguments.images,
            top=arguments.top,
            out=arguments.out,
            kind=arguments.format,
            batch_size=arguments.batch_size,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the rows, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0 if told else 1


if __name__ == "__main__":
    sys.exit(main())
