"""Compare runs: `opsin compare`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.commands.command_line import command, command_parser
from opsin.runs.directory import RunDirectory
from opsin.runs.home import real_path, user_path
from opsin.runs.metric_registry import RANKING_METRIC
from opsin.runs.quoting import opsin_command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from opsin.data.subset import Subset
    from opsin.evaluation.comparison.comparison import Comparison
    from opsin.evaluation.comparison.leaderboard import Leaderboard


@command
def main(arguments: list[str] | None = None) -> int:
    """Print a leaderboard with paired tests, and write comparison.html; exit code 1 if a named run is not ranked."""
    options = _parser().parse_intermixed_args(arguments)
    from opsin.evaluation.comparison.comparison import compare
    from opsin.evaluation.comparison.console import print_comparison
    from opsin.evaluation.comparison.page import write_comparison
    from opsin.runs.rich_console import TerminalConsole

    comparison = compare(options.runs, options.metric, options.tag)
    if options.json:
        print(json.dumps(comparison.as_dict(), indent=2))
    else:
        console = TerminalConsole()
        print_comparison(comparison, console if console.is_terminal else TerminalConsole(width=160))
    out = options.out or (None if options.json else _default_page(comparison, options.runs))
    if out is not None:
        words = sys.argv[1:] if arguments is None else arguments
        page = write_comparison(comparison, out, thumbnails, opsin_command("compare", *words))
        print(f"\npage  {page}", file=sys.stderr if options.json else sys.stdout)
    problems = _problems(comparison.leaderboard, [real_path(run) for run in options.runs])
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def _problems(board: "Leaderboard", named: Sequence[Path]) -> list[str]:
    """Return one line for each run of the command line that could not be ranked with the others.

    Args:
        board: The leaderboard.
        named: The paths of the command line; of a folder of runs, some may have failed.
    """
    if not board.rows:
        return ["no run has finished, so there is nothing to compare"]
    lines = [
        f"not compared: {record.run.path} ({record.status}{f': {record.reason}' if record.reason else ''})"
        for record in board.without_result
        if record.run.path in named
    ]
    lacking = [record.run.path for record in board.without_metric if record.run.path in named]
    lines += [f"not compared: {path} (no {board.metric})" for path in lacking]
    rows = [row for row in board.rows if any(run.run.path in named for run in row.runs)]
    lines += [f"not ranked: {row.letter} ({row.name})" for row in rows if row.rank is None]
    groups = {row.group for row in rows if row.rank is not None}
    return lines + ["the named runs are not ranked together: their images differ"] * (len(groups) > 1)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("compare")
    parser.add_argument("runs", nargs="+", help="run directories, sweeps, or folders of runs such as outputs")
    parser.add_argument(
        "--metric", default=RANKING_METRIC, help="metric to rank by: val/acc, test/loss, ... (default: %(default)s)"
    )
    parser.add_argument("--tag", action="append", default=[], help="only runs with this tag; may be repeated")
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="FILE.html",
        help="the page to write (default: comparison.html in the given folder, or beside the given runs)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON; write a page only with --out")
    return parser


def _default_page(comparison: "Comparison", given: Sequence[str]) -> Path | None:
    """Return the path of comparison.html in the given folder, or in that of the given runs; None without runs.

    The place depends only on the command, not on which runs of a folder have finished.
    """
    paths = [real_path(path) for path in given]
    folders = [path.parent if RunDirectory(path).config.is_file() else path for path in paths]
    return Path(os.path.commonpath(folders)) / "comparison.html" if comparison.leaderboard.rows else None


def thumbnails(run: RunDirectory, split: str, positions: "NDArray[np.int64]") -> "NDArray[np.uint8]":
    """Return the pixels of some images of a run. Only this function imports torch."""
    from opsin.runs.predictions import check_positions

    subset = _subset(run, split)
    check_positions(positions, split, len(subset))
    return subset.read(positions)


@cache
def _subset(run: RunDirectory, split: str) -> "Subset":
    from opsin.inference.inputs import open_images
    from opsin.inference.trained_model import load_trained_model

    return open_images(load_trained_model(str(run.path))).subset(split)
