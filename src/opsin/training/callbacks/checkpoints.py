"""The best and the last checkpoint, and the checkpoint of an interrupted run."""

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import lightning as L
import torch
from pydantic import Field
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.errors import Interrupted, UserError
from opsin.runs.atomic import link_atomically
from opsin.runs.directory import RunDirectory
from opsin.runs.metric_registry import sort_key, split_of
from opsin.runs.predictions import predictions_file
from opsin.runs.quoting import resume_command
from opsin.training.callbacks.base import EpochCallback, measurement_follows
from opsin.training.callbacks.early_stopping import stop_again
from opsin.training.callbacks.finite_loss import ADVICE
from opsin.training.gather import collect
from opsin.training.lightning_patches import log_epoch

log = logging.getLogger(__name__)


class Checkpoints(EpochCallback):
    """Write `best.ckpt`, its predictions on val if they were measured, and `last.ckpt`; stop cleanly on a signal.

    `best.ckpt` is written when `monitor` is better than ever before, in the direction of the metric: at the end of an
    epoch, and after a validation within an epoch for a metric of val. An equal or non-finite value does not replace it.

    `last.ckpt` is written at the end of every epoch and after each validation within an epoch. A run that
    resumes from it takes the same steps as an uninterrupted run. The first SIGINT (Ctrl-C) or SIGTERM
    writes it after the current step and raises `Interrupted`; a second one stops at once. `every_n_steps` and
    `every_minutes` write `step.ckpt` within an epoch, and the end of training deletes it. A killed run resumes from its
    newest checkpoint.

    With `verify_checkpoints=N`, `opsin.training.callbacks.replay_points` keeps `checkpoints/replay/STEP.ckpt` after
    each of N equal parts of training, except the last part, which ends with `last.ckpt`. It also keeps the checkpoint
    from which a run resumes.

    Args:
        monitor: Metric that selects the best epoch.
        every_n_steps: Optimizer steps between checkpoints within an epoch; null writes none.
        every_minutes: Minutes between checkpoints within an epoch; null writes none.
        run: The run directory.

    Attributes:
        best_value: Best value of `monitor` so far; None before the first epoch.
        best_epoch: Number of epochs after which the best value was measured; not a whole number if it was
            measured within an epoch.
        best_step: Number of optimizer steps at that moment.
        best_metrics: All metrics measured with it.
        best_confusion: Confusion matrices `(C, C)` of the splits measured at that moment, if the module has them.
        epochs: Number of epochs at the last checkpoint.
    """

    def __init__(
        self,
        monitor: str,
        every_n_steps: Annotated[int, Field(ge=1)] | None = None,
        every_minutes: Annotated[float, Field(gt=0)] | None = None,
        *,
        run: RunDirectory,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self._every_n_steps = every_n_steps
        self._every_minutes = every_minutes
        self._run = run
        self.best_value: float | None = None
        self.best_epoch: float | None = None
        self.best_step: int | None = None
        self.best_metrics: dict[str, float] = {}
        self.best_confusion: dict[str, Tensor] = {}
        self.epochs: float = 0
        self._saved_at = time.monotonic()
        self._asked: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch and the number of epochs."""
        best = {"value": self.best_value, "epoch": self.best_epoch, "step": self.best_step}
        return {**best, "metrics": self.best_metrics, "confusion": self.best_confusion, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch and the number of epochs."""
        self.best_value, self.best_epoch, self.best_step = (state_dict[key] for key in ("value", "epoch", "step"))
        self.best_metrics, self.best_confusion = state_dict["metrics"], state_dict["confusion"]
        self.epochs = state_dict["epochs"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers, which only the main thread may; end a training that had ended."""
        stop_again(trainer)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the signal handlers again, and start the clock.

        They take the place of a handler of Lightning that waits for other processes.
        """
        for number in self._handlers:
            signal.signal(number, self._on_signal)
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write `step.ckpt` if it is due, and stop after a signal.

        While gradients accumulate, this hook does nothing. Before a validation it does nothing either, because
        `on_measured` writes the checkpoints after it.
        """
        if self._asked is None and trainer.world_size == 1 and not (self._every_n_steps or self._every_minutes):
            return
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if not accumulating and not measurement_follows(trainer):
            if self._is_due(trainer):
                self._save(trainer, self._run.step)
            self._stop_if_asked(trainer)

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Write the metrics of an epoch to the loggers, then the checkpoints, and stop after a signal."""
        if isinstance(epoch, int):
            log_epoch(trainer)
        self.epochs = epoch
        value = metrics.get(self.monitor)
        improved = sort_key(self.monitor, value) < sort_key(self.monitor, self.best_value)
        if improved:
            self.best_value, self.best_epoch, self.best_step = value, self.epochs, trainer.global_step
            self.best_metrics = metrics
            splits = {split_of(name) for name in metrics}
            known = getattr(pl_module, "confusion", {})  # of every split as it was last measured
            self.best_confusion = {split: matrix for split, matrix in known.items() if split in splits}
            self._replace_predictions(trainer, pl_module, "val" in splits)
            self._save(trainer, self._run.best)
        if improved and self._run.best.is_file():
            self._link_last_to_best(trainer)
        else:
            self._save(trainer, self._run.last)
        self._stop_if_asked(trainer, save=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that there is a best checkpoint to test, and delete `step.ckpt`: `last.ckpt` is newer.

        Raises:
            UserError: The monitored metric was never finite, or never measured.
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
                    else f"training diverged; {ADVICE}"
                )
            )
        if trainer.is_global_zero:
            self._run.step.unlink(missing_ok=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._release()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        self._release()

    def _replace_predictions(self, trainer: L.Trainer, pl_module: L.LightningModule, measured: bool) -> None:
        """Write the predictions on val; if val was not measured at this moment, delete those of an earlier best epoch.

        A run that is killed before the checkpoint is written repeats this epoch.
        """
        data, outputs = getattr(trainer, "datamodule", None), getattr(pl_module, "outputs", {}).get("val")
        if measured and outputs and isinstance(data, ImageDataModule):
            predictions = collect(outputs, data, "val")
            if trainer.is_global_zero:
                predictions.write(self._run)
        elif trainer.is_global_zero:
            predictions_file(self._run, "val").unlink(missing_ok=True)

    def _link_last_to_best(self, trainer: L.Trainer) -> None:
        """Link `last.ckpt` to the `best.ckpt` just written; files are replaced, never changed."""
        if trainer.is_global_zero:
            link_atomically(self._run.best, self._run.last)
        trainer.strategy.barrier()

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Return whether a checkpoint within the epoch is due, the same in all processes."""
        if self._every_n_steps and trainer.global_step % self._every_n_steps == 0:
            return True
        if not self._every_minutes:
            return False
        due = time.monotonic() - self._saved_at >= 60 * self._every_minutes
        return trainer.strategy.reduce_boolean_decision(due, all=False) if trainer.world_size > 1 else due

    def _save(self, trainer: L.Trainer, file: Path) -> None:
        """Write a checkpoint; refuse weights that are not finite.

        Raises:
            UserError: A weight is not finite.
        """
        weights = (
            getattr(value, "to_local", lambda value=value: value)() for value in trainer.lightning_module.parameters()
        )
        finite = all(bool(torch.isfinite(value).all()) for value in weights)
        if trainer.world_size > 1:  # with fsdp each process has its own part
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            raise UserError(
                f"the weights are not finite after step {trainer.global_step}: training diverged; {ADVICE}. {file} is "
                "not written, so the checkpoint before it stays"
            )
        trainer.save_checkpoint(file)
        self._saved_at = time.monotonic()

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
                self._save(trainer, self._run.last)
            log.info("saved; resume with: %s", resume_command(self._run.path))
            raise Interrupted(self._asked or signal.SIGTERM)

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
