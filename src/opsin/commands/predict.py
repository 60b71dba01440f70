"""The command predict: print and write the predicted classes of image files, skip bad files, print a summary."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opsin.data.cache.files import progress
from opsin.errors import UserError
from opsin.inference.image_paths import find_images
from opsin.inference.prediction_writers import Format, Write, open_table, printable, ranked
from opsin.inference.predictor import Answer, open_predictor

MAX_ROWS = 20
"""Maximum number of rows of the table in the terminal."""


def predict_files(
    run: str,
    words: Sequence[str],
    *,
    top: int = 1,
    out: Path | None = None,
    kind: Format | None = None,
    batch_size: int | None = None,
) -> int:
    """Predict the classes of image files: print a table to stdout, bad files and the summary to stderr.

    Args:
        run: A run directory.
        words: Files, folders or glob patterns.
        top: Number of classes per image.
        out: The file to write all rows to; the terminal shows the first ones.
        kind: Format of the file; without a file, rows in this format replace the table on stdout.
        batch_size: Number of images per batch; None takes the default.

    Returns:
        The number of predicted images.

    Raises:
        UserError: There are no such files, the run cannot predict, or the file cannot be written.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, got {top}")
    files = find_images(words)
    predictor = open_predictor(run, batch_size=batch_size)
    classes, top = predictor.classes, min(top, len(predictor.classes))
    first: list[Answer] = []
    counts: Counter[str] = Counter()
    bad, start = 0, time.monotonic()
    with _rows(out, kind, classes, top) as write, progress(len(files), "predicting") as advance:
        for answer in predictor.predict(files):
            write(answer)
            advance(1)
            if answer.reason is not None:
                bad += 1
                sys.stderr.write(f"skipped {printable(str(answer.path))}: {printable(answer.reason)}\n")
                continue
            counts[ranked(answer, classes, 1)[0][0]] += 1
            if len(first) < MAX_ROWS:
                first.append(answer)
    if first and (out or not kind):
        show(first, classes, top, counts.total() - len(first), None if out else "use --out FILE.csv to write all")
    sys.stdout.flush()
    sys.stderr.write(_summary(counts, bad, time.monotonic() - start, out) + "\n")
    return counts.total()


def show(answers: Sequence[Answer], classes: Sequence[str], top: int, more: int, hint: str | None) -> None:
    """Print predictions as a table to stdout, and the number of further ones."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    for rank in range(1, top + 1):
        table.add_column("class" if rank == 1 else f"{rank}.", overflow="fold")
        table.add_column("probability" if rank == 1 else "", justify="right", no_wrap=True)
    for answer in answers:
        cells = [(Text(printable(name)), f"{p:.4f}") for name, p in ranked(answer, classes, top)]
        table.add_row(Text(printable(str(answer.path))), *(cell for pair in cells for cell in pair))
    # Without a terminal, rich assumes 80 columns and would wrap file names.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    console.print(table)
    if more:
        console.print(f"... and {more:,} more{f': {hint}' if hint else ''}", markup=False, highlight=False)


@contextlib.contextmanager
def _rows(out: Path | None, kind: Format | None, classes: Sequence[str], top: int) -> Iterator[Write]:
    if out is None and kind is None:
        yield lambda _: None
        return
    with open_table(out, kind, classes, top) as write:
        yield write


def _summary(counts: Counter[str], bad: int, seconds: float, out: Path | None) -> str:
    predicted = counts.total()
    images = f"{predicted:,} image{'s' if predicted != 1 else ''}" + (f", {bad:,} bad and skipped" if bad else "")
    most = counts.most_common(5)
    by_class = ", ".join(f"{printable(name)}: {count:,}" for name, count in most)
    others = predicted - sum(count for _, count in most)
    by_class += f", others: {others:,}" if others else ""
    speed = f"{(predicted + bad) / seconds:,.0f} images/s" if seconds > 0 else ""
    return "; ".join(part for part in (images, by_class, speed, f"written to {out}" if out else "") if part)
