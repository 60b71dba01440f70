"""Progress of work on many images: a bar on a terminal, one line in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)
_LONG_S = 1.0  # seconds after which progress is worth showing


@contextmanager
def progress(total: int, work: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, or log one line elsewhere, once work takes more than a second."""
    if not sys.stderr.isatty():
        yield _one_line(total, work)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from opsin.runs.rich_console import TerminalConsole

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=TerminalConsole(stderr=True), transient=True)
    task = bar.add_task(work, total=total)
    begin = time.monotonic()

    def advance(images: int) -> None:
        bar.advance(task, images)
        if time.monotonic() - begin > _LONG_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _one_line(total: int, work: str) -> Callable[[int], None]:
    begin, done, logged = time.monotonic(), 0, False

    def advance(images: int) -> None:
        nonlocal done, logged
        done += images
        elapsed = time.monotonic() - begin
        if not logged and elapsed > _LONG_S and (left := elapsed / done * (total - done)) > _LONG_S:
            _LOG.info("%s: %s images, about %.0f s more", work, f"{total:,}", left)
            logged = True

    return advance
