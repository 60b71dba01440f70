"""The leaderboard as text: the columns that the terminal and the page share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow
from opsin.evaluation.comparison.paired_tests import PairwiseResult
from opsin.evaluation.confidence_intervals import Interval
from opsin.runs.metric_registry import is_percentage
from opsin.visualization.formatting import NONE, seconds

STANDARD_METRICS = ("test/acc", "val/acc", "test/loss", "val/loss")
"""Metrics shown next to the one that ranks."""

AGAINST_FIRST = "vs. first"
"""Header of the column with the result of the paired test against the first row."""


@dataclass(frozen=True)
class Columns:
    """A leaderboard as text.

    Attributes:
        header: Name of each column.
        rows: Each row with its cells, in the order of the leaderboard.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[LeaderboardRow, tuple[str, ...]], ...]


def columns(board: Leaderboard, pairwise: Sequence[PairwiseResult] = ()) -> Columns:
    """Format the rows of a leaderboard as text, with the result of the paired tests if there are any."""
    metrics = standard_metrics(board)
    against_first = {result.a.letter: "first" for result in pairwise}
    against_first |= {result.b.letter: _against_first(result) for result in pairwise}
    tested = (AGAINST_FIRST,) if pairwise else ()
    tags = ("tags",) if any(row.tags for row in board.rows) else ()
    header = ("", "recipe", *tags, *metrics, *tested, "runs", "parameters", "images/s", "time")
    rows = []
    for row in board.rows:
        cells = (
            f"{NONE if row.rank is None else row.rank} {row.letter}",
            row.name,
            *(", ".join(row.tags) for _ in tags),
            *(metric_text(name, row.metrics.get(name)) for name in metrics),
            *(against_first.get(row.letter, "") for _ in tested),
            row.repetitions,
            f"{row.parameters:,}" if row.parameters else NONE,
            f"{row.images_per_second:,.0f}" if row.images_per_second else NONE,
            seconds(row.seconds),
        )
        rows.append((row, cells))
    return Columns(header, tuple(rows))


def standard_metrics(board: Leaderboard) -> list[str]:
    """Return the metrics to show: the one that ranks, then the standard ones that the rows have."""
    present = {name for row in board.rows for name in row.metrics}
    return [name for name in dict.fromkeys([board.metric, *STANDARD_METRICS]) if name in present]


def metric_text(metric: str, value: Interval | None) -> str:
    """Format a metric as `98.12 %`, or `98.12 ± 0.31 %` with half of its interval over runs; a loss without a unit."""
    if value is None or math.isnan(value.estimate):
        return NONE
    factor, digits, unit = (100, 2, " %") if is_percentage(metric) else (1, 4, "")
    margin = "" if math.isnan(value.margin) else f" ± {value.margin * factor:.{digits}f}"
    return f"{value.estimate * factor:.{digits}f}{margin}{unit}"


def _against_first(result: PairwiseResult) -> str:
    if result.better is None:
        return "not significant"
    return "less accurate" if result.better is result.a else "more accurate"
