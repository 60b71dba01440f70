"""Make the report of a run again, and its pictures: python scripts/report.py outputs/latest."""

import argparse
import sys

from opsin.errors import UserError
from opsin.evaluation.report.page import write_report
from opsin.runs.directory import RunDirectory


def main() -> int:
    """Print where the report is, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "--page-only",
        action="store_true",
        help="write the page from what lies in the run directory: neither the images nor the network are needed",
    )
    arguments = parser.parse_args()
    try:
        run = RunDirectory.of(arguments.run)
        if run.best.is_file() and not arguments.page_only:
            _make_pictures(run)
        page = write_report(run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(page)
    return 0


def _make_pictures(run: RunDirectory) -> None:
    """Predictions that are missing, and all pictures; where images are gone, the page has to do with what there is."""
    from opsin.commands.evaluate import evaluate
    from opsin.commands.report import illustrate_again
    from opsin.runs.predictions import predictions_file

    finished = run.read_result().status == "finished"  # the test images are read once, at the end
    try:
        for split in ("val", "test") if finished else ("val",):
            if not predictions_file(run, split).is_file():
                evaluate(run, split)
        illustrate_again(run)
    except UserError as error:
        print(f"The page is written without new pictures: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
