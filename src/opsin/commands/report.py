"""Write the report of a run again, and its pictures: python scripts/report.py outputs/latest."""

import argparse
import sys

from opsin.commands.command_line import command
from opsin.errors import UserError
from opsin.runs.directory import RunDirectory


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the report and print its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "--page-only",
        action="store_true",
        help="write only the page, from the files in the run directory; needs neither the images nor the network",
    )
    options = parser.parse_intermixed_args(arguments)
    from opsin.evaluation.report.page import write_report

    run = RunDirectory.of(options.run)
    if run.best.is_file() and not options.page_only:
        _make_pictures(run)
    print(write_report(run))
    return 0


def _make_pictures(run: RunDirectory) -> None:
    """Write missing predictions and all pictures. Without the images of the run, warn and keep the old pictures."""
    from opsin.commands.evaluate import evaluate
    from opsin.commands.report_pictures import illustrate_again
    from opsin.runs.predictions import predictions_file

    finished = run.read_result().get("status") == "finished"  # the test images are read once, at the end
    try:
        for split in ("val", "test") if finished else ("val",):
            if not predictions_file(run, split).is_file():
                evaluate(run, split)
        illustrate_again(run)
    except UserError as error:
        print(f"The page is written without new pictures: {error}", file=sys.stderr)
