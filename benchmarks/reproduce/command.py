"""The command line of `make reproduce`: run what has no record yet, show the results, and write the pages."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from benchmarks.reproduce.conclusions import mean_accuracy, percent
from benchmarks.reproduce.lecture_rows import RESULTS
from benchmarks.reproduce.mistakes_page import MISTAKE_ROWS, mistakes_page
from benchmarks.reproduce.records import read_rows
from benchmarks.reproduce.results_page import NOT_HERE, NOT_RUN, Records, readme_table, results_page
from benchmarks.reproduce.rows import ROOT, Row, select
from benchmarks.reproduce.training_runs import Session, run_all
from benchmarks.tables import with_section
from opsin.commands.command_line import command
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically

RECORDS = ROOT / "benchmarks" / "records"
ROWS = (*RESULTS, *MISTAKE_ROWS)
README_SECTION = "results"
"""Name of the section of README.md that is made from the records."""


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the selected rows, show all results, and write the pages if they are wanted."""
    options = parser().parse_args(arguments)
    rows = select(ROWS, options.only)
    records_dir, data_dir, work_dir = (
        folder.absolute() for folder in (options.records, options.data_dir, options.work_dir)
    )
    session = Session(records_dir, data_dir, work_dir, options.downloads)
    outcomes = {} if options.no_run else run_all(session, rows, options.seeds)
    records, problems = read_rows(session.records, ROWS)
    Console().print(summary(rows, records))
    if outcomes and set(outcomes.values()) == {"done"}:
        print(f"all of these are recorded in {os.path.relpath(session.records)}; --records FOLDER runs them again")
    if problems:
        raise UserError("\n".join([*problems, *(["No page was written."] if options.write else [])]))
    if options.write:
        for path in write_pages(records):
            print(f"written: {os.path.relpath(path)}")
    return 1 if "failed" in outcomes.values() else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    found = argparse.ArgumentParser(
        prog="python scripts/reproduce.py",
        description="Run the experiments of docs/results.md and docs/mistakes.md that have no record yet.",
    )
    found.add_argument("--only", nargs="+", metavar="NAME", help="rows, or beginnings of their names such as mnist")
    found.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the images")
    found.add_argument(
        "--seeds", type=int, metavar="N", help="number of seeds per row (default: 3, or 5 for short runs)"
    )
    found.add_argument(
        "--records", type=Path, default=RECORDS, help="folder of the records (default: the committed ones)"
    )
    found.add_argument("--work-dir", type=Path, default=Path("outputs/reproduce"), help="folder of the run directories")
    found.add_argument("--downloads", action="store_true", help="also run rows whose weights must be downloaded")
    found.add_argument("--no-run", action="store_true", help="show or write the records without a run")
    found.add_argument("--write", action="store_true", help="write docs/results.md, docs/mistakes.md and README.md")
    return found


def summary(rows: Sequence[Row], records: Records) -> Table:
    """Return the table for the terminal."""
    table = Table(
        Column("row", overflow="fold"),
        "lecture",
        "test accuracy (95 % interval)",
        "n",
        title="Results",
        title_justify="left",
    )
    for row in rows:
        found = records[row.name]
        accuracy = NOT_HERE if row.downloads else NOT_RUN
        if found:
            interval = mean_accuracy(found)
            accuracy = f"{percent(interval.estimate)} ({percent(interval.low)} to {percent(interval.high)})"
        table.add_row(row.name, row.figure.text if row.figure else "", accuracy, f"{len(found)} of {row.seeds}")
    return table


def pages(records: Records) -> dict[Path, str]:
    """Return the text of each page that is made from records."""
    readme = ROOT / "README.md"
    table = readme_table(RESULTS, records)
    return {
        ROOT / "docs" / "results.md": results_page(RESULTS, records),
        ROOT / "docs" / "mistakes.md": mistakes_page(records),
        readme: with_section(readme.read_text(encoding="utf-8"), README_SECTION, table),
    }


def write_pages(records: Records) -> list[Path]:
    """Write the pages, and return their paths."""
    found = pages(records)
    for path, text in found.items():
        write_atomically(path, text)
    return list(found)
