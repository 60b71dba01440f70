"""Predict classes of images: python scripts/predict.py outputs/latest photo.jpg FOLDER 'photos/**/*.png' --top 3."""

import argparse
import os
import sys
from pathlib import Path

from opsin.errors import UserError


def main() -> int:
    """Print a table of predictions and the errors of bad files; return 1 if no image could be predicted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "images",
        nargs="+",
        help="files, folders (searched recursively; other files, such as .txt, are skipped), or glob patterns",
    )
    parser.add_argument("--top", type=int, default=1, metavar="K", help="classes per image (default: 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for all rows: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "parquet"), help="format of --out; without --out, print the rows to stdout"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per batch (default: up to 256)")
    arguments = parser.parse_intermixed_args()
    try:
        from opsin.commands.predict import predict_files
        from opsin.training.quiet_logging import quieten

        quieten(True)
        predicted = predict_files(
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
    except BrokenPipeError:  # the reader of the rows, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0 if predicted else 1


if __name__ == "__main__":
    sys.exit(main())
