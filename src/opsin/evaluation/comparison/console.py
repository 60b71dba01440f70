"""Print a comparison to the terminal."""

from itertools import compress

from rich.console import Console
from rich.table import Table

from opsin.evaluation.comparison.columns import AGAINST_FIRST, columns
from opsin.evaluation.comparison.comparison import Comparison

MAX_PAIRWISE, MAX_DIFFERENCES = 6, 20
_MINIMUM_WIDTH = {"test/loss": 120, "parameters": 120, "images/s": 120, "time": 120, "val/loss": 180}
"""Terminal width in characters below which a column is left out."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the leaderboard, the paired tests, the config differences, and the runs without a result."""
    board = comparison.leaderboard
    if board.rows:
        console.print(_leaderboard(comparison, console.width))
        if any(len(row.runs) > 1 for row in board.rows):
            console.print("± is half of the 95 % interval of the mean by Student's t.", style="dim")
    for sentence in board.ranking_problems():
        _print(console, sentence, "yellow")
    for result in comparison.pairwise[:MAX_PAIRWISE]:
        console.print()
        _print(console, f"{result.conclusion}.", "bold green" if result.better else "bold")
        _print(console, result.explanation)
    hidden = len(comparison.pairwise) - MAX_PAIRWISE
    if hidden > 0:
        _print(console, f"{hidden} more comparison{'s' if hidden > 1 else ''}: see the page, or use --json.", "dim")
    if comparison.config:
        console.print()
        console.print(_differences(comparison))
    for record, reason in board.ignored():
        _print(console, f"ignored, because {reason}: {record.run.path}", "dim")
    for record in board.without_result:
        reason = f": {record.reason[:200]}{'…' * (len(record.reason) > 200)}" if record.reason else ""
        _print(console, f"{record.status}: {record.run.path}{reason}", "yellow")


def _leaderboard(comparison: Comparison, width: int) -> Table:
    board = comparison.leaderboard
    found = columns(board, comparison.pairwise)
    fits = [name == board.metric or width >= _MINIMUM_WIDTH.get(name, 0) for name in found.header]
    table = Table(title=f"Leaderboard by {board.metric}", title_justify="left")
    for name in compress(found.header, fits):
        is_text = name in ("", "recipe", "tags", AGAINST_FIRST, "runs")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text)
    last = None
    for row, cells in found.rows:
        if last is not None and row.group != last.group:
            table.add_section()
        table.add_row(*compress(cells, fits))
        last = row
    return table


def _differences(comparison: Comparison) -> Table:
    rows = comparison.leaderboard.rows
    table = Table("", *(row.letter for row in rows), title="Config differences", title_justify="left")
    for difference in comparison.config[:MAX_DIFFERENCES]:
        table.add_row(difference.key, *difference.values)
    if len(comparison.config) > MAX_DIFFERENCES:
        table.caption = f"and {len(comparison.config) - MAX_DIFFERENCES} more: see the page, or use --json"
    return table


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, highlight=False)
