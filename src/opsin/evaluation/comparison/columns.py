"""The leaderboard as text: the columns that the terminal and the page both show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from opsin.evaluation.comparison.leaderboard import Leaderboard, LeaderboardRow
from opsin.evaluation.comparison.paired_tests import PairwiseResult
from opsin.evaluation.confidence_intervals import Interval
from opsin.runs.metric_registry import is_percentage
from opsin.visualization.formatting import NONE, seconds

CUSTOMARY = ("test/acc", "val/acc", "test/loss", "val/loss")
"""Metrics that are shown beside the one that ranks."""


@dataclass(frozen=True)
class Columns:
    """A leaderboard as text.

    Attributes:
        header: Of each column.
        rows: Each with its cells, in the order of the leaderboard.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[LeaderboardRow, tuple[str, ...]], ...]


def columns(board: Leaderboard, verdicts: Sequence[PairwiseResult] = ()) -> Columns:
    """The rows of a leaderboard as text, with what the verdicts say of each."""
    there = {name for row in board.rows for name in row.metrics}
    metrics = [name for name in dict.fromkeys([board.metric, *CUSTOMARY]) if name in there]
    said = {verdict.a.letter: "the first" for verdict in verdicts}
    said |= {verdict.b.letter: _said(verdict) for verdict in verdicts}
    against = ("against first",) if said else ()
    header = ("", "recipe", *metrics, *against, "runs", "parameters", "images/s", "time")
    rows = []
    for row in board.rows:
        cells = (
            f"{NONE if row.rank is None else row.rank} {row.letter}",
            row.name,
            *(spread(name, row.metrics.get(name)) for name in metrics),
            *(said.get(row.letter, "") for _ in against),
            row.repeats,
            f"{row.parameters:,}" if row.parameters else NONE,
            f"{row.images_per_second:,.0f}" if row.images_per_second else NONE,
            seconds(row.seconds),
        )
        rows.append((row, cells))
    return Columns(header, tuple(rows))


def spread(metric: str, value: Interval | None) -> str:
    """A metric as `98.12 %`, or `98.12 ± 0.31 %` with half of its interval over several runs; others as they are."""
    if value is None or math.isnan(value.estimate):
        return NONE
    factor, digits, unit = (100, 2, " %") if is_percentage(metric) else (1, 4, "")
    half = (value.high - value.low) / 2
    reach = "" if math.isnan(half) else f" ± {half * factor:.{digits}f}"
    return f"{value.estimate * factor:.{digits}f}{reach}{unit}"


def _said(verdict: PairwiseResult) -> str:
    if verdict.better is None:
        return "not told apart"
    return "worse" if verdict.better is verdict.a else "more accurate"
