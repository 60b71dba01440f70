"""The table of epochs."""

import lightning as L

from opsin.runs.directory import RunDirectory
from opsin.runs.metrics_csv import LEARNING_RATE, EpochRow, read_epochs, write_epochs
from opsin.training.callbacks.base import EpochCallback, epoch_metrics


class MetricsCSV(EpochCallback):
    """Write one row per epoch to `metrics.csv`: epoch, step, all metrics, and the learning rate of the head.

    A resumed run first drops the rows of the epochs that it trains again.

    Args:
        run: The run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self._file = run.metrics
        self._rows: list[EpochRow] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the rows of the completed epochs."""
        if trainer.is_global_zero:
            self._rows = [row for row in read_epochs(self._file) if row.epoch <= trainer.current_epoch]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, unless Lightning repeats the end of an epoch that was saved just before it ended."""
        if not trainer.is_global_zero or "train/loss" not in trainer.callback_metrics:
            return
        values = {LEARNING_RATE: float(trainer.optimizers[0].param_groups[-1]["lr"]), **epoch_metrics(trainer)}
        self._rows.append(EpochRow(trainer.current_epoch + 1, trainer.global_step, values))
        write_epochs(self._file, self._rows)
