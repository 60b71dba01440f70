"""A run in its directory: its metrics, its history and its report."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from opsin.api import notebook_html
from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import EPOCH, STEP, read_epochs
from opsin.runs.result import RunResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: The run directory.
    """

    path: Path

    @cached_property
    def result(self) -> RunResult:
        """The content of `result.json`: status, settings, data, hardware and more.

        Raises:
            UserError: The file is damaged, or another version of Opsin wrote it.
        """
        return self._directory.read_result()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, such as `test/acc`: measured at the best epoch; on the test set, with its checkpoint."""
        return self.result.metrics

    @property
    def history(self) -> "pd.DataFrame":
        """The metrics of each epoch: one row per epoch, counted from 1, and one column per metric.

        Raises:
            UserError: `metrics.csv` is damaged.
        """
        import pandas as pd

        rows = [{EPOCH: row.epoch, STEP: row.step, **row.values} for row in read_epochs(self._directory.metrics)]
        return pd.DataFrame(rows, columns=None if rows else [EPOCH, STEP]).set_index(EPOCH)

    @property
    def report(self) -> Path | None:
        """The path of the report, a self-contained page; None if the run has none."""
        return self._directory.report if self._directory.report.is_file() else None

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.path)

    def _repr_html_(self) -> str:
        result = self.result
        rows = [("run", str(self.path)), ("status", result.status)]
        if result.error:
            rows.append(("error", result.error))
        if result.best_epoch:
            rows.append(("best epoch", f"{result.best_epoch} of {result.epochs}"))
        rows += [(name, f"{value:.4f}") for name, value in sorted(result.metrics.items())]
        if self.report:
            rows.append(("report", str(self.report)))
        return notebook_html.table(rows)
