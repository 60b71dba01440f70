"""The command: answers in the terminal and in a file, bad images named, and a line that sums up."""

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

SHOWN = 20
"""Rows of the table in the terminal."""


def predict_files(
    run: str,
    words: Sequence[str],
    *,
    top: int = 1,
    out: Path | None = None,
    kind: Format | None = None,
    batch_size: int | None = None,
) -> int:
    """Tell the classes of image files: a table on the standard output, bad images and the summary on the other.

    Args:
        run: A run directory.
        words: Files, folders, globs.
        top: How many classes to tell of each.
        out: The file to write all rows to; the terminal then shows the first ones.
        kind: Its format; without a file, rows in this format take the table's place on the standard output.
        batch_size: Images that are computed at once; None: as many as is customary.

    Returns:
        The number of images that were told.

    Raises:
        UserError: The words name no files, the run cannot answer, or the file cannot be written.
    """
    if top < 1:
        raise UserError(f"--top {top}: at least one class is told")
    files = find_images(words)
    predictor = open_predictor(run, batch_size=batch_size)
    classes, top = predictor.classes, min(top, len(predictor.classes))
    first: list[Answer] = []
    counts: Counter[str] = Counter()
    bad, begin = 0, time.monotonic()
    with _rows(out, kind, classes, top) as write, progress(len(files), "predicting") as advance:
        for answer in predictor.predict(files):
            write(answer)
            advance(1)
            if answer.reason is not None:
                bad += 1
                sys.stderr.write(f"skipped {printable(str(answer.path))}: {printable(answer.reason)}\n")
                continue
            counts[ranked(answer, classes, 1)[0][0]] += 1
            if len(first) < SHOWN:
                first.append(answer)
    if first and (out or not kind):
        show(first, classes, top, counts.total() - len(first), None if out else "--out FILE.csv keeps them all")
    sys.stdout.flush()
    sys.stderr.write(_summary(counts, bad, time.monotonic() - begin, out) + "\n")
    return counts.total()


def show(answers: Sequence[Answer], classes: Sequence[str], top: int, more: int, hint: str | None) -> None:
    """Print answers as a table on the standard output, and how many more there are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", overflow="fold")
    for rank in range(1, top + 1):
        table.add_column("class" if rank == 1 else f"{rank}.", overflow="fold")
        table.add_column("probability" if rank == 1 else "", justify="right", no_wrap=True)
    for answer in answers:
        cells = [(Text(printable(name)), f"{p:.4f}") for name, p in ranked(answer, classes, top)]
        table.add_row(Text(printable(str(answer.path))), *(cell for pair in cells for cell in pair))
    # Elsewhere than in a terminal rich takes 80 columns for granted and would break names.
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
    told = counts.total()
    images = f"{told:,} image{'s' if told != 1 else ''}" + (f", {bad:,} bad and skipped" if bad else "")
    most = counts.most_common(5)
    by_class = ", ".join(f"{printable(name)}: {count:,}" for name, count in most)
    others = told - sum(count for _, count in most)
    by_class += f", others: {others:,}" if others else ""
    pace = f"{(told + bad) / seconds:,.0f} images/s" if seconds > 0 else ""
    return "; ".join(part for part in (images, by_class, pace, f"written to {out}" if out else "") if part)
