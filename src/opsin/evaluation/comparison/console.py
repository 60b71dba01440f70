"""A comparison in the terminal."""

from itertools import compress

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from opsin.evaluation.comparison.columns import columns
from opsin.evaluation.comparison.comparison import Comparison

MOST_VERDICTS, MOST_DIFFERENCES = 6, 20
_ROOM = {"test/loss": 120, "parameters": 120, "images/s": 120, "time": 120, "val/loss": 180}
"""Columns that are left out where the terminal has fewer characters."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The leaderboard, the verdicts in words, what differs, and the runs without a result."""
    board = comparison.leaderboard
    if board.rows:
        console.print(_leaderboard(comparison, console.width))
        several = any(len(row.runs) > 1 for row in board.rows)
        console.print("± is half of the 95 % interval of the mean by Student's t.", style="dim") if several else None
    for sentence in board.refusals():
        _say(console, sentence, "yellow")
    for verdict in comparison.verdicts[:MOST_VERDICTS]:
        console.print()
        _say(console, f"{verdict.answer}.", "bold green" if verdict.better else "bold")
        _say(console, verdict.reasons)
    if left := len(comparison.verdicts) - MOST_VERDICTS:
        _say(console, f"{left} more such comparisons: see the page, or --json.", "dim") if left > 0 else None
    if comparison.config:
        console.print()
        console.print(_differences(comparison))
    for record in board.repeated:
        _say(console, f"not counted, because a newer run repeats it: {record.run.path}", "dim")
    for record in board.others:
        reason = f": {record.reason[:200]}{'…' * (len(record.reason) > 200)}" if record.reason else ""
        _say(console, f"{record.status}: {record.run.path}{reason}", "yellow")


def _leaderboard(comparison: Comparison, width: int) -> Table:
    board = comparison.leaderboard
    found = columns(board, comparison.verdicts)
    fits = [name == board.metric or width >= _ROOM.get(name, 0) for name in found.header]
    table = Table(title=f"by {board.metric}", title_justify="left")
    for name in compress(found.header, fits):
        words = name in ("", "recipe", "against first", "runs")
        table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    last = None
    for row, cells in found.rows:
        if last is not None and row.board != last.board:
            table.add_section()
        table.add_row(*(escape(cell) for cell in compress(cells, fits)))
        last = row
    return table


def _differences(comparison: Comparison) -> Table:
    rows = comparison.leaderboard.rows
    table = Table("", *(row.letter for row in rows), title="what differs in the config", title_justify="left")
    for difference in comparison.config[:MOST_DIFFERENCES]:
        table.add_row(escape(difference.key), *(escape(value) for value in difference.values))
    if len(comparison.config) > MOST_DIFFERENCES:
        table.caption = f"and {len(comparison.config) - MOST_DIFFERENCES} more: see the page, or --json"
    return table


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
