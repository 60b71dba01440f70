"""Write the report of a run again, with its images: `opsin report`."""

import sys

from opsin.commands.command_line import command, command_parser
from opsin.errors import UserError
from opsin.runs.atomic import check_writable
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path


@command
def main(arguments: list[str] | None = None) -> int:
    """Write the report and print its path."""
    parser = command_parser("report")
    parser.add_argument("run", help="a run directory, such as outputs/latest")
    parser.add_argument(
        "--page-only",
        action="store_true",
        help="write the page from the files of the run alone, without images and network",
    )
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="FOLDER",
        help="write the page and its images there, for a run directory that cannot be written to (default: RUN)",
    )
    options = parser.parse_intermixed_args(arguments)
    from opsin.evaluation.report.page import write_report

    run = RunDirectory.of(options.run, options.out)
    check_writable(run.out, "--out")
    run.check_links(run.out)
    if run.best.is_file() and not options.page_only:
        _make_images(run)
    print(write_report(run))
    return 0


def _make_images(run: RunDirectory) -> None:
    """Write missing predictions and all images. Without the data of the run, warn and keep the old images.

    The test images of a run that was not tested are not read.
    """
    from opsin.commands.evaluate import evaluate
    from opsin.commands.report_images import remake_images
    from opsin.runs.predictions import predictions_file

    try:
        for split in ("val", "test") if run.read_result().tested else ("val",):
            if not predictions_file(run, split).is_file():
                evaluate(run, split)
        remake_images(run)
    except UserError as error:
        print(f"The page is written without new images: {error}", file=sys.stderr)
