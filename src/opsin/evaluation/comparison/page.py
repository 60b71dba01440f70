"""Write a comparison as one self-contained HTML file."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.evaluation.comparison.columns import columns, metric_text
from opsin.evaluation.comparison.comparison import Comparison, Flip, curve, flips
from opsin.evaluation.comparison.leaderboard import LeaderboardRow
from opsin.evaluation.comparison.paired_tests import PairwiseResult
from opsin.evaluation.comparison.run_records import RunRecord
from opsin.evaluation.templating import render
from opsin.runs.atomic import check_writable, write_atomically, write_errors
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import is_logarithmic, is_percentage
from opsin.visualization.charts import COLORS, Series, line_chart
from opsin.visualization.formatting import number, percent, shortened
from opsin.visualization.images import Pixels, data_uri, resize_for_display

Thumbnails = Callable[[RunDirectory, str, NDArray[np.int64]], NDArray[np.uint8]]
"""Reads pixels `(N, H, W, C)` at positions `(N,)` of a split of a run."""

MAX_FLIP_SECTIONS = 3
"""Number of paired tests whose prediction flips are shown."""

MAX_OPEN = 6
"""Number of paired tests that are not collapsed."""

MAX_FLIPS = 8
"""Number of images shown in each direction."""

_SMALL, _SIDE = 64, 160


@dataclass(frozen=True)
class FlippedImage:
    """A prediction flip on the page; `image` is a `data:` URI, empty if the pixels cannot be read."""

    flip: Flip
    image: str


@dataclass(frozen=True)
class FlipSection:
    """Prediction flips of one paired test; `problem` is the reason if the pixels cannot be read, else empty."""

    result: PairwiseResult
    only_a: tuple[FlippedImage, ...]
    only_b: tuple[FlippedImage, ...]
    problem: str


def write_comparison(
    comparison: Comparison, file: Path, thumbnails: Thumbnails | None = None, command: str = ""
) -> Path:
    """Write the page.

    Args:
        comparison: The comparison.
        file: The file to write; missing parent folders are created.
        thumbnails: Reads the images whose prediction flips; called only if there are any. None shows paths only.
        command: The command that makes the page, for the footer.

    Raises:
        UserError: The file cannot be written.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder; give a file, such as {file / 'comparison.html'}")
    board = comparison.leaderboard
    text = render(
        "comparison.html",
        comparison=comparison,
        board=board,
        columns=columns(board, comparison.pairwise),
        summary=_summary(comparison),
        curves=[_curves(board.rows_in(i), board.metric) for i in range(len(board.groups))],
        max_curves=COLORS,
        max_open=MAX_OPEN,
        flip_sections=[_flip_section(result, thumbnails) for result in comparison.pairwise[:MAX_FLIP_SECTIONS]],
        report_links={record.run.path: _report_link(record.run, file) for row in board.rows for record in row.runs},
        short_paths=_short_paths([record.run.path for row in board.rows for record in row.runs]),
        command=command,
    )
    check_writable(file.parent, "--out")
    with write_errors(file, "--out"):
        write_atomically(file, text)
    return file


def _summary(comparison: Comparison) -> str:
    """Return the result in a few sentences; empty if no row is ranked."""
    board = comparison.leaderboard
    first = next((row for row in board.rows if row.rank == 1), None)
    if first is None:
        return ""
    score = metric_text(board.metric, first.metrics[board.metric])
    sentences = [f"{first.letter} ({first.name}) is first with {score} {board.metric}."]
    return " ".join([*sentences, *_against_first(comparison.pairwise, first)])


def _against_first(pairwise: Sequence[PairwiseResult], first: LeaderboardRow) -> list[str]:
    """Return one sentence for each result of the paired tests against the first row."""
    tests = [result for result in pairwise if result.a is first]
    worse = [result.b.letter for result in tests if result.better is result.a]
    undecided = [result.b.letter for result in tests if result.better is None]
    better = [result.b.letter for result in tests if result.better is result.b]
    plural = len(better) > 1
    return [
        *([f"{first.letter} is better than {_listed(worse)}."] if worse else []),
        *(
            [f"There is no significant difference between {first.letter} and {_listed(undecided)}."]
            if undecided
            else []
        ),
        *([f"{_listed(better)} {'classify' if plural else 'classifies'} more images correctly."] if better else []),
    ]


def _listed(letters: Sequence[str]) -> str:
    """Return `B`, `B and C` or `B, C and D`."""
    return " and ".join(part for part in (", ".join(letters[:-1]), letters[-1]) if part)


def _short_paths(paths: Sequence[Path]) -> dict[Path, str]:
    """Return each path relative to the folder that all share."""
    shared = os.path.commonpath(paths) if len(paths) > 1 else ""
    return {path: os.path.relpath(path, shared) if shared else path.name for path in paths}


def _curves(rows: Sequence[LeaderboardRow], metric: str) -> list[Markup]:
    """Return charts of validation and training metrics by epoch, with one line for each of the first rows."""
    name = metric.split("/")[1]
    charts = []
    for wanted in dict.fromkeys([f"val/{name}", "val/acc", "val/loss", "train/loss"]):
        series = []
        for i, row in enumerate(rows[:COLORS]):
            epochs, values = curve(row, wanted)
            if epochs:
                series.append(Series(f"{row.letter} {shortened(row.name, 40)}", epochs, values, color=i))
        if series:
            text = percent if is_percentage(wanted) else number
            charts.append(line_chart(series, title=wanted, log=is_logarithmic(wanted), text=text))
    return charts


def _flip_section(result: PairwiseResult, thumbnails: Thumbnails | None) -> FlipSection:
    found = flips(result, MAX_FLIPS)
    both = [*found.only_a, *found.only_b]
    uris, problem = [""] * len(both), ""
    if both and thumbnails is not None:
        try:
            run = max((found.run_pair.a, found.run_pair.b), key=_image_area).run
            pixels = thumbnails(run, result.split, np.array([flip.position for flip in both]))
            uris = [_data_uri(image) for image in pixels]
        except (UserError, OSError) as error:
            problem = str(error)
    images = [FlippedImage(flip, uri) for flip, uri in zip(both, uris, strict=True)]
    return FlipSection(result, tuple(images[: len(found.only_a)]), tuple(images[len(found.only_a) :]), problem)


def _image_area(record: RunRecord) -> int:
    height, width = record.result.data.image_size if record.result.data else (0, 0)
    return height * width


def _data_uri(image: Pixels) -> str:
    if max(image.shape[:2]) <= _SMALL:
        return data_uri(image)
    return data_uri(resize_for_display(image, _SIDE), "JPEG")


def _report_link(run: RunDirectory, file: Path) -> str:
    """Return the link from the page to the report of a run; empty if the run has no report."""
    if not run.report.is_file():
        return ""
    return quote(os.fsencode(Path(os.path.relpath(run.report, file.parent.resolve())).as_posix()))
