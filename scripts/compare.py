"""Compare runs: python scripts/compare.py RUN RUN ... | SWEEP | outputs."""

import argparse
import json
import os
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.directory import RunDirectory

if TYPE_CHECKING:
    from opsin.data.subset import Subset


def main() -> int:
    """Print a leaderboard with paired tests and write a page, or print a one-line error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run directories, sweeps, or folders of runs such as outputs")
    parser.add_argument("--metric", default="test/acc", help="metric that ranks the runs (default: test/acc)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="page to write (default: comparison.html in the common folder)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; write a page only with --out")
    arguments = parser.parse_args()
    try:
        from rich.console import Console

        from opsin.evaluation.comparison.comparison import compare
        from opsin.evaluation.comparison.console import print_comparison
        from opsin.evaluation.comparison.page import write_comparison

        comparison = compare(arguments.runs, arguments.metric)
        if arguments.json:
            print(json.dumps(comparison.as_dict(), indent=2))
        else:
            console = Console()
            print_comparison(comparison, console if console.is_terminal else Console(width=160))
        out = arguments.out
        if out is None and not arguments.json:
            paths = [record.run.path for row in comparison.leaderboard.rows for record in row.runs]
            out = Path(os.path.commonpath(paths)) / "comparison.html" if paths else None
        if out is not None:
            command = shlex.join(["python", "scripts/compare.py", *sys.argv[1:]])
            page = write_comparison(comparison, out, thumbnails, command)
            print(f"\npage  {page}", file=sys.stderr if arguments.json else sys.stdout)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def thumbnails(run: RunDirectory, split: str, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the pixels of some images of a run; imports torch only when called."""
    return _part(run, split).read(positions)


@cache
def _part(run: RunDirectory, split: str) -> "Subset":
    from opsin.inference.inputs import open_images
    from opsin.inference.trained_model import load_trained_model
    from opsin.training.quiet_logging import quieten

    quieten(True)
    return open_images(load_trained_model(str(run.path))).part(split)


if __name__ == "__main__":
    sys.exit(main())
