"""`opsin.compare`: a leaderboard of runs with paired tests. Neither torch nor Lightning is loaded."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from opsin.api import notebook_html
from opsin.commands.compare import thumbnails
from opsin.config.resolvers import restored_resolvers
from opsin.errors import UserError
from opsin.evaluation.comparison.columns import columns, standard_metrics
from opsin.evaluation.comparison.comparison import Comparison
from opsin.evaluation.comparison.comparison import compare as compare_runs
from opsin.evaluation.comparison.page import write_comparison
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.metric_registry import RANKING_METRIC

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class HasPath(Protocol):
    """A run of `opsin.train`, or a model of `opsin.load`."""

    @property
    def path(self) -> Path:
        """The run directory."""


@dataclass(frozen=True, eq=False)
class RunComparison:
    """A comparison of runs.

    Attributes:
        comparison: Everything that was computed, as plain dataclasses.
    """

    comparison: Comparison

    @cached_property
    def table(self) -> "pd.DataFrame":
        """The leaderboard: one row per recipe, the best first. Runs that differ only in seed or fold share a row.

        The columns are `rank`, `recipe`, the mean of each metric, `runs` (their number), `parameters`,
        `images_per_second` in training, `seconds` and `paths`.
        """
        import pandas as pd

        board = self.comparison.leaderboard
        rows = [
            {
                "rank": row.rank,
                "recipe": row.name,
                **{name: row.metrics[name].estimate for name in standard_metrics(board) if name in row.metrics},
                "runs": len(row.runs),
                "parameters": row.parameters,
                "images_per_second": row.images_per_second,
                "seconds": row.seconds,
                "paths": [run.run.path for run in row.runs],
            }
            for row in board.rows
        ]
        return pd.DataFrame(rows, index=pd.Index([row.letter for row in board.rows], dtype=str)).astype(
            {"rank": "Int64"} if rows else {}
        )

    @property
    def conclusions(self) -> list[str]:
        """The results of the paired tests of the best recipe against every other one, and reasons not to rank."""
        tests = [f"{result.conclusion}. {result.explanation}" for result in self.comparison.pairwise]
        return [*self.comparison.leaderboard.ranking_problems(), *tests]

    def write(self, file: str | PathLike[str]) -> Path:
        """Write the comparison as a self-contained HTML page, and return its path.

        Raises:
            UserError: The file cannot be written.
        """
        return write_comparison(self.comparison, user_path(file), _thumbnails, "opsin.compare")

    def __str__(self) -> str:
        """The leaderboard without the run directories, and the conclusions, as text."""
        shown = self.table.drop(columns="paths").to_string()
        return "\n".join([shown, *self.conclusions])

    def __repr__(self) -> str:
        return f"<RunComparison of {len(self.table)} recipes by {self.comparison.leaderboard.metric}>"

    def _repr_html_(self) -> str:
        found = columns(self.comparison.leaderboard, self.comparison.pairwise)
        text = notebook_html.table([cells for _, cells in found.rows], found.header)
        return text + "".join(notebook_html.caption(sentence) for sentence in self.conclusions)


def compare(
    runs: str | PathLike[str] | HasPath | Iterable[str | PathLike[str] | HasPath], metric: str = RANKING_METRIC
) -> RunComparison:
    """Compare runs by a metric, with paired tests on the images that they share.

    Args:
        runs: Run directories, sweeps, folders of runs, or results of `opsin.train` and `opsin.load`; one or several.
        metric: The metric that ranks them: `test/...` or `val/...`.

    Raises:
        UserError: There is no such run, or no run has the metric.

    Example:
        >>> opsin.compare(["outputs/a", "outputs/b"]).table["test/acc"]
    """
    paths = [_path(run) for run in runs] if isinstance(runs, Iterable) and not isinstance(runs, str) else [_path(runs)]
    if not paths:
        raise UserError("opsin.compare([]): give at least one run")
    with restored_resolvers():
        return RunComparison(compare_runs(paths, metric))


def _thumbnails(run: RunDirectory, split: str, positions: "NDArray[np.int64]") -> "NDArray[np.uint8]":
    from opsin.api.caller_state import caller_state  # imports torch, as the images do

    with caller_state():
        return thumbnails(run, split, positions)


def _path(run: str | PathLike[str] | HasPath) -> Path:
    if isinstance(run, str | PathLike):
        return user_path(run)
    if not hasattr(run, "path"):
        raise UserError(f"{run!r} is not a run: give a run directory, or a result of opsin.train or opsin.load")
    return run.path
