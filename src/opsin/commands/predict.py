"""Classify images: `opsin predict`."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.commands.command_line import add_checkpoint_option, command, command_parser
from opsin.errors import UserError
from opsin.runs.home import user_path

if TYPE_CHECKING:
    from opsin.inference.prediction_writers import Format, Write
    from opsin.inference.predictor import Prediction

MAX_ROWS = 20
"""Maximum number of rows of the table in the terminal."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Print a table of predictions and the errors of bad images. Return 1 if all images are bad."""
    parser = command_parser("predict")
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "images", nargs="+", help="files, folders (with subfolders; other files, such as .txt, are skipped), globs"
    )
    parser.add_argument(
        "--top", type=int, default=1, metavar="K", help="number of classes per image (default: %(default)s)"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="write all rows to it: .csv, .jsonl or .parquet")
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "parquet"), help="format of --out; without --out, print the rows"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per batch (default: up to 256)")
    parser.add_argument(
        "--raw", action="store_true", help="probabilities without the temperature that the run fitted on val"
    )
    add_checkpoint_option(parser)
    options = parser.parse_intermixed_args(arguments)
    count = predict_files(
        options.run,
        options.images,
        top=options.top,
        out=options.out,
        kind=options.format,
        batch_size=options.batch_size,
        raw=options.raw,
        checkpoint=options.checkpoint,
    )
    return 0 if count else 1


def predict_files(
    run: str,
    paths: Sequence[str],
    *,
    top: int = 1,
    out: Path | None = None,
    kind: "Format | None" = None,
    batch_size: int | None = None,
    raw: bool = False,
    checkpoint: str = "best",
) -> int:
    """Classify image files: print a table to stdout, and bad images and a summary to stderr.

    Args:
        run: A run directory.
        paths: Files, folders, globs.
        top: Number of classes per image, limited to the number of classes.
        out: The file to write all rows to; the table then shows the first ones.
        kind: The format of the file; without a file, rows in this format replace the table on stdout.
        batch_size: Images per batch; None for the default.
        raw: Do not divide the logits by the temperature of the run.
        checkpoint: `best`, `last`, or the path of a checkpoint.

    Returns:
        The number of images classified.

    Raises:
        UserError: No file matches, the run cannot predict, or the file cannot be written.
    """
    from opsin.data.progress import progress
    from opsin.inference.image_arguments import find_images
    from opsin.inference.prediction_writers import printable, ranked
    from opsin.inference.predictor import open_predictor

    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    predictor = open_predictor(run, batch_size=batch_size, raw=raw, checkpoint=checkpoint)
    files = find_images(paths, predictor.trained.source_channels)
    classes = predictor.classes
    first: list[Prediction] = []
    counts: Counter[str] = Counter()
    bad, start = 0, time.monotonic()
    with _rows(out, kind, classes, top) as write, progress(len(files), "predicting") as advance:
        for answer in predictor.predict(files):
            write(answer)
            advance(1)
            if answer.reason is not None:
                bad += 1
                if bad <= MAX_ROWS:
                    sys.stderr.write(f"skipped {printable(str(answer.path))}: {printable(answer.reason)}\n")
                continue
            counts[ranked(answer, classes, 1)[0][0]] += 1
            if len(first) < MAX_ROWS:
                first.append(answer)
    if first and (out or not kind):
        show(first, classes, top, counts.total() - len(first), None if out else "use --out FILE.csv to write all")
    sys.stdout.flush()
    if bad > MAX_ROWS:
        more = "" if out or kind else ": use --out FILE.csv to write all"
        sys.stderr.write(f"... and {bad - MAX_ROWS:,} more images skipped{more}\n")
    sys.stderr.write(_summary(counts, bad, time.monotonic() - start, out) + "\n")
    return counts.total()


def show(predictions: Sequence["Prediction"], classes: Sequence[str], top: int, more: int, hint: str | None) -> None:
    """Print predictions as a table, and the number of rows left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from opsin.inference.prediction_writers import classes_per_row, printable, ranked
    from opsin.runs.rich_console import TerminalConsole

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    for rank in range(1, classes_per_row(classes, top) + 1):
        table.add_column("class" if rank == 1 else f"{rank}.", overflow="fold")
        table.add_column("probability" if rank == 1 else "", justify="right", no_wrap=True)
    for answer in predictions:
        cells = [(Text(printable(name)), f"{p:.4f}") for name, p in ranked(answer, classes, top)]
        table.add_row(Text(printable(str(answer.path))), *(cell for pair in cells for cell in pair))
    # Outside a terminal, rich assumes 80 columns and would wrap file names.
    console = TerminalConsole() if sys.stdout.isatty() else TerminalConsole(width=10_000)
    console.print(table)
    if more:
        console.print(f"... and {more:,} more{f': {hint}' if hint else ''}", highlight=False)


@contextlib.contextmanager
def _rows(out: Path | None, kind: "Format | None", classes: Sequence[str], top: int) -> Iterator["Write"]:
    from opsin.inference.prediction_writers import open_table

    if out is None and kind is None:
        yield lambda _: None
        return
    with open_table(out, kind, classes, top) as write:
        yield write


def _summary(counts: Counter[str], bad: int, seconds: float, out: Path | None) -> str:
    from opsin.inference.prediction_writers import printable

    done = counts.total()
    images = f"{done:,} image{'s' if done != 1 else ''}" + (f", {bad:,} bad and skipped" if bad else "")
    most = counts.most_common(5)
    by_class = ", ".join(f"{printable(name)}: {count:,}" for name, count in most)
    others = done - sum(count for _, count in most)
    by_class += f", others: {others:,}" if others else ""
    rate = (done + bad) / seconds if seconds > 0 else 0.0
    pace = f"{rate:,.0f} images/s" if rate >= 1 and done + bad > 1 else ""
    return "; ".join(part for part in (images, by_class, pace, f"written to {out}" if out else "") if part)
