"""The callback that writes `metrics.csv`; `opsin.runs.metrics_csv` defines its columns."""

import lightning as L

from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import LEARNING_RATE, EpochRow, read_epochs, write_epochs
from opsin.training.callbacks.base import EpochCallback, step_rates


class MetricsCSV(EpochCallback):
    """Write one row per epoch to `metrics.csv`: epoch, step, all metrics, and the learning rate of the next step.

    A validation within an epoch has a row of its own, with a fraction as its epoch and without training metrics. A
    resumed run first drops the rows of the steps that it takes again.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self._file = run.metrics
        self._rows: list[EpochRow] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the rows of the completed steps."""
        if trainer.is_global_zero:
            self._rows = [row for row in read_epochs(self._file) if row.step <= trainer.global_step]

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Add a row, unless Lightning repeats the end of an epoch that was saved just before it ended."""
        if not trainer.is_global_zero or not metrics:
            return
        rate = float([*step_rates(trainer).values()][-1])
        self._rows.append(EpochRow(epoch, trainer.global_step, {LEARNING_RATE: rate, **metrics}))
        write_epochs(self._file, self._rows)
