"""A comparison as one self-contained HTML file."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.evaluation.comparison.columns import columns, spread
from opsin.evaluation.comparison.comparison import Comparison, Flip, curve, flips
from opsin.evaluation.comparison.leaderboard import LeaderboardRow
from opsin.evaluation.comparison.paired_tests import PairwiseResult
from opsin.evaluation.comparison.run_records import RunRecord
from opsin.evaluation.templating import render
from opsin.runs.atomic import write_atomically
from opsin.runs.directory import RunDirectory
from opsin.visualization.charts import COLOURS, Series, line_chart
from opsin.visualization.formatting import number, percent, shortened
from opsin.visualization.images import Pixels, data_uri, shown

Thumbnails = Callable[[RunDirectory, str, NDArray[np.int64]], NDArray[np.uint8]]
"""Pixels `(N, H, W, C)` of some positions `(N,)` of a split of a run."""

MOST_FLIPPED = 3
"""Verdicts whose flipped images are shown."""

MOST_OPEN = 6
"""Verdicts that need no click."""

MOST_PICTURES = 8
"""Of each way."""

_SMALL, _SIDE = 64, 160


@dataclass(frozen=True)
class FlippedImage:
    """An image that flipped, as the page shows it; `picture` is empty where its pixels cannot be had."""

    flip: Flip
    picture: str


@dataclass(frozen=True)
class Flipped:
    """The images of one verdict that flipped, each way, and why there are no pictures of them where there are none."""

    verdict: PairwiseResult
    only_a: tuple[FlippedImage, ...]
    only_b: tuple[FlippedImage, ...]
    trouble: str


def write_comparison(
    comparison: Comparison, file: Path, thumbnails: Thumbnails | None = None, command: str = ""
) -> Path:
    """Write the page.

    Args:
        comparison: What it shows.
        file: Where; its folder is made if need be.
        thumbnails: Reads the images that flipped; called only where there are some. None: their names alone.
        command: What made the page, for its foot.

    Raises:
        UserError: It cannot be written there.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: name a file with --out, such as {file / 'comparison.html'}")
    board = comparison.leaderboard
    text = render(
        "comparison.html",
        comparison=comparison,
        board=board,
        columns=columns(board, comparison.verdicts),
        lead=_lead(comparison),
        curves=[_curves(board.on(i), board.metric) for i in range(len(board.boards))],
        most_curves=COLOURS,
        most_open=MOST_OPEN,
        flipped=[_flipped(verdict, thumbnails) for verdict in comparison.verdicts[:MOST_FLIPPED]],
        links={record.run.path: _link(record.run, file) for row in board.rows for record in row.runs},
        places=_places([record.run.path for row in board.rows for record in row.runs]),
        command=command,
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): name another file with --out") from None
    return file


def _lead(comparison: Comparison) -> str:
    """The result in a sentence or two; empty where nothing has a rank."""
    board = comparison.leaderboard
    first = next((row for row in board.rows if row.rank == 1), None)
    if first is None:
        return ""
    score = spread(board.metric, first.metrics[board.metric])
    return " ".join([f"{first.letter} ({first.name}): {score} {board.metric}.", *_answers(comparison.verdicts, first)])


def _answers(verdicts: Sequence[PairwiseResult], first: LeaderboardRow) -> list[str]:
    """What is known of the first row against the others, in a sentence for each answer."""
    mine = [verdict for verdict in verdicts if verdict.a is first]
    worse = [verdict.b.letter for verdict in mine if verdict.better is verdict.a]
    open_ = [verdict.b.letter for verdict in mine if verdict.better is None]
    more = [verdict.b.letter for verdict in mine if verdict.better is verdict.b]
    return [
        *([f"It is better than {', '.join(worse)}."] if worse else []),
        *([f"No difference from {', '.join(open_)} is shown."] if open_ else []),
        *([f"{', '.join(more)} tells more images rightly."] if more else []),
    ]


def _places(paths: Sequence[Path]) -> dict[Path, str]:
    """Each run by its path below the folder that all share."""
    shared = os.path.commonpath(paths) if len(paths) > 1 else ""
    return {path: os.path.relpath(path, shared) if shared else path.name for path in paths}


def _curves(rows: Sequence[LeaderboardRow], metric: str) -> list[Markup]:
    """Validation and training by epoch, one line for each of the first rows."""
    name = metric.split("/")[1]
    charts = []
    for wanted in dict.fromkeys([f"val/{name}", "val/acc", "val/loss", "train/loss"]):
        series = []
        for i, row in enumerate(rows[:COLOURS]):
            epochs, values = curve(row, wanted)
            if epochs:
                series.append(Series(f"{row.letter} {shortened(row.name, 40)}", epochs, values, colour=i))
        if series:
            loss = wanted.endswith("/loss")
            charts.append(line_chart(series, title=wanted, log=loss, text=number if loss else percent))
    return charts


def _flipped(verdict: PairwiseResult, thumbnails: Thumbnails | None) -> Flipped:
    found = flips(verdict, MOST_PICTURES)
    both = [*found.only_a, *found.only_b]
    pictures, trouble = [""] * len(both), ""
    if both and thumbnails is not None:
        try:
            run = max((found.duel.a, found.duel.b), key=_image_area).run
            pixels = thumbnails(run, verdict.split, np.array([flip.position for flip in both]))
            pictures = [_picture(image) for image in pixels]
        except (UserError, OSError) as error:
            trouble = str(error)
    images = [FlippedImage(flip, picture) for flip, picture in zip(both, pictures, strict=True)]
    return Flipped(verdict, tuple(images[: len(found.only_a)]), tuple(images[len(found.only_a) :]), trouble)


def _image_area(record: RunRecord) -> int:
    height, width = record.result.data.image_size if record.result.data else (0, 0)
    return height * width


def _picture(image: Pixels) -> str:
    if max(image.shape[:2]) <= _SMALL:
        return data_uri(image)
    return data_uri(shown(image, _SIDE), "JPEG")


def _link(run: RunDirectory, file: Path) -> str:
    """Where a run's own report lies, as seen from the page; empty where it has none."""
    report = run.path / "report.html"
    if not report.is_file():
        return ""
    return quote(Path(os.path.relpath(report, file.parent.resolve())).as_posix())
