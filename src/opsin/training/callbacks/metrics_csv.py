"""The table of all epochs."""

import csv

import lightning as L

from opsin.runs.atomic import atomic_open
from opsin.runs.directory import RunDirectory
from opsin.training.callbacks.base import EpochCallback, epoch_metrics


class MetricsCSV(EpochCallback):
    """Write one row per epoch to `metrics.csv`: epoch, step, all metrics, and the learning rate of the head.

    A resumed run drops the rows that it is about to make again. A value that an epoch lacks is left empty.

    Args:
        run: the run directory.
    """

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.file = run.metrics
        self.rows: list[dict[str, str]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take up the rows of the epochs that are done."""
        if trainer.is_global_zero and self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row, unless this is the echo of an epoch that was saved before it had quite ended."""
        if not trainer.is_global_zero or "train/loss" not in trainer.callback_metrics:
            return
        values = epoch_metrics(trainer)
        values["lr"] = trainer.optimizers[0].param_groups[-1]["lr"]
        row = {"epoch": str(trainer.current_epoch + 1), "step": str(trainer.global_step)}
        self.rows.append(row | {name: repr(values[name]) for name in sorted(values)})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with atomic_open(self.file, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
