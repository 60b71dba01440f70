"""The progress of training on the console."""

import logging
from typing import Any

import lightning as L
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from opsin.runs.rich_console import TerminalConsole
from opsin.training.callbacks.base import EpochCallback, is_within_epoch
from opsin.training.callbacks.throughput import IMAGES_PER_SECOND

log = logging.getLogger(__name__)

SHOWN = ("train/loss", "train/acc", "val/loss", "val/acc")


class ProgressBar(EpochCallback):
    """Log one line per epoch and validation, and draw a progress bar of the current epoch on a terminal.

    Args:
        bar: Draw the bar if the console is a terminal.
    """

    def __init__(self, bar: bool = True) -> None:
        super().__init__()
        self._wanted = bar
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw an empty bar."""
        if self._wanted and trainer.is_global_zero and (console := TerminalConsole()).is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=console, transient=True)
            title = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._task = self._progress.add_task(title, total=trainer.num_training_batches)
            self._progress.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar; a thread redraws it ten times a second."""
        if self._progress is not None:
            self._progress.update(self._task, completed=batch_idx + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar, and log the line of the epoch."""
        self._stop()
        super().on_train_epoch_end(trainer, pl_module)

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Log a line, unless Lightning repeats the end of an epoch that was saved just before it ended."""
        if trainer.is_global_zero and metrics:
            shown = "  ".join(f"{name} {float(metrics[name]):.4f}" for name in SHOWN if name in metrics)
            speed = None if is_within_epoch(trainer) else trainer.callback_metrics.get(IMAGES_PER_SECOND)
            tail = f"  {float(speed):,.0f} images/s" if speed is not None else ""
            log.info("epoch %g/%s  %s%s", epoch, trainer.max_epochs, shown, tail)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
