"""The best and the last checkpoint, and the checkpoint of an interrupted run."""

import logging
import shutil
import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.errors import Interrupted, UserError
from opsin.runs.atomic import atomic_path
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import sort_key
from opsin.runs.quoting import resume_command
from opsin.training.callbacks.base import EpochCallback, is_within_epoch
from opsin.training.gather import collect
from opsin.training.validation_schedule import schedule_of

log = logging.getLogger(__name__)


class Checkpoints(EpochCallback):
    """Write `best.ckpt`, its predictions on val and `last.ckpt`, and stop cleanly on a signal.

    `best.ckpt` is written when `monitor` is better than ever before, in the direction of the metric: at the end of an
    epoch, and after a validation within an epoch for a metric of val. An equal or non-finite value does not replace it.

    `last.ckpt` is written at the end of every epoch, after everything that the epoch changes, and after each validation
    within an epoch, so that a resumed run takes the same steps as an uninterrupted one. The first SIGINT (Ctrl-C) or
    SIGTERM writes it after the current step and raises `Interrupted`; a second one stops at once.

    Args:
        monitor: metric that selects the best epoch.
        run: the run directory.

    Attributes:
        best_value: best value of `monitor` so far; None before the first epoch.
        best_epoch: number of epochs after which the best value was measured; not a whole number if it was
            measured within an epoch.
        best_metrics: all metrics measured with it.
        best_confusion: confusion matrices `(C, C)` of that epoch, by split, if the module has them.
        epochs: number of epochs at the last checkpoint.
    """

    def __init__(self, monitor: str, *, run: RunDirectory) -> None:
        super().__init__()
        self.monitor = monitor
        self.best_path = run.best
        self.last_path = run.last
        self._run = run
        self.best_value: float | None = None
        self.best_epoch: float | None = None
        self.best_metrics: dict[str, float] = {}
        self.best_confusion: dict[str, Tensor] = {}
        self.epochs: float = 0
        self._asked: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch and the number of epochs."""
        best = {"value": self.best_value, "epoch": self.best_epoch, "metrics": self.best_metrics}
        return {**best, "confusion": self.best_confusion, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and the number of epochs."""
        self.best_value, self.best_epoch = state_dict["value"], state_dict["epoch"]
        self.best_metrics, self.best_confusion = state_dict["metrics"], state_dict["confusion"]
        self.epochs = state_dict["epochs"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers; only the main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install them again, in place of a handler of Lightning that waits for other processes."""
        for number in self._handlers:
            signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a signal, unless gradients are being accumulated or a validation follows."""
        if self._asked is None and trainer.world_size == 1:
            return
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        schedule = schedule_of(trainer)
        if not accumulating and is_within_epoch(trainer) and not (schedule and schedule.is_due(trainer)):
            self._stop_if_asked(trainer)

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Write the checkpoints, then stop after a signal."""
        self.epochs = epoch
        value = metrics.get(self.monitor)
        improved = sort_key(self.monitor, value) < sort_key(self.monitor, self.best_value)
        if improved:
            self.best_value, self.best_epoch = value, self.epochs
            self.best_metrics = metrics
            self.best_confusion = dict(getattr(pl_module, "confusion", {}))
            self._write_predictions(trainer, pl_module)
            trainer.save_checkpoint(self.best_path)
        if improved and self.best_path.is_file():
            self._link_last_to_best(trainer)
        else:
            trainer.save_checkpoint(self.last_path)
        self._stop_if_asked(trainer, save=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there is a best checkpoint to test.

        Raises:
            UserError: the monitored metric was never finite, or never measured.
        """
        if self.best_value is None:
            last = trainer.callback_metrics.get(self.monitor)
            raise UserError(
                f"{self.monitor} was {'not measured' if last is None else 'not finite'} in any epoch, so no epoch is "
                "the best: "
                + (
                    "set monitor.metric to a measured metric, or validate (trainer.limit_val_batches, "
                    "trainer.check_val_every_n_epoch)"
                    if last is None
                    else "training diverged; try a smaller optimizer.lr, or trainer.gradient_clip_norm=1"
                )
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._release()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        self._release()

    def _write_predictions(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the predictions on val; a run that is killed before the checkpoint is written repeats this epoch."""
        data, outputs = getattr(trainer, "datamodule", None), getattr(pl_module, "outputs", {}).get("val")
        if outputs and isinstance(data, ImageDataModule):
            predictions = collect(outputs, data, "val")
            if trainer.is_global_zero:
                predictions.write(self._run)

    def _link_last_to_best(self, trainer: L.Trainer) -> None:
        """Link `last.ckpt` to the `best.ckpt` just written; files are replaced, never changed."""
        if trainer.is_global_zero:
            with atomic_path(self.last_path) as temporary:
                try:
                    temporary.hardlink_to(self.best_path)
                except OSError:  # not every filesystem has hard links
                    shutil.copyfile(self.best_path, temporary)
        trainer.strategy.barrier()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None or not self._handlers:  # Lightning restores this handler once more after an error
            raise KeyboardInterrupt
        self._asked = number
        log.info("%s: saving after this step; send it again to stop at once", signal.Signals(number).name)

    def _stop_if_asked(self, trainer: L.Trainer, save: bool = True) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:  # all processes must save and stop at the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            if save:
                trainer.save_checkpoint(self.last_path)
            log.info("saved; resume with: %s", resume_command(self._run.path))
            raise Interrupted(self._asked or signal.SIGTERM)

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
