"""The best and the last checkpoint, and the one that an interruption leaves."""

import logging
import math
import shutil
import signal
import threading
from types import FrameType
from typing import Any, Literal

import lightning as L
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.errors import Interrupted, UserError
from opsin.runs.atomic import atomic_path
from opsin.runs.directory import RunDirectory
from opsin.training.callbacks.base import EpochCallback, epoch_metrics
from opsin.training.gather import collect

log = logging.getLogger(__name__)


class Checkpoints(EpochCallback):
    """Keeps `best.ckpt`, its predictions on val and `last.ckpt` up to date, and stops cleanly when asked to.

    `last.ckpt` is written at the end of every epoch, after all that the epoch changes, so that a run which goes on
    from it takes the very steps that it would have taken. At the first SIGINT (Ctrl-C) or SIGTERM it is written after
    the step under way and `Interrupted` is raised; a second one stops at once.

    Args:
        monitor: metric that tells the best epoch.
        mode: whether less or more of it is better.
        run: the run directory, where the files go.

    Attributes:
        best_value: best value of `monitor` so far; None before the first.
        best_epoch: its epoch, counted from 1.
        best_metrics: all metrics of that epoch.
        best_confusion: confusion matrices `(C, C)` of that epoch, by split, where the module keeps them.
        epochs: how many epochs are done.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"] = "min", *, run: RunDirectory) -> None:
        super().__init__()
        self.monitor = monitor
        self.mode = mode
        self.best_path = run.best
        self.last_path = run.last
        self._run = run
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self.best_confusion: dict[str, Tensor] = {}
        self.epochs = 0
        self._asked: int | None = None
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What decides about later epochs."""
        best = {"value": self.best_value, "epoch": self.best_epoch, "metrics": self.best_metrics}
        return {**best, "confusion": self.best_confusion, "epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with an earlier best."""
        self.best_value, self.best_epoch = state_dict["value"], state_dict["epoch"]
        self.best_metrics, self.best_confusion = state_dict["metrics"], state_dict["confusion"]
        self.epochs = state_dict["epochs"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals; only a main thread may."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take them over again: by now Lightning has set a handler that waits, in a signal, for the other processes."""
        for number in self._handlers:
            signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if asked to; but gradients that are being accumulated are not saved, nor an epoch unvalidated."""
        accumulating = (batch_idx + 1) % trainer.accumulate_grad_batches != 0
        if not accumulating and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save what the epoch came to, then stop if asked to."""
        metrics = epoch_metrics(trainer)
        self.epochs = trainer.current_epoch + 1
        improved = self.monitor in metrics and self._improves(metrics[self.monitor])
        if improved:
            self.best_value, self.best_epoch = metrics[self.monitor], self.epochs
            self.best_metrics = metrics
            self.best_confusion = dict(getattr(pl_module, "confusion", {}))
            self._keep_predictions(trainer, pl_module)
            trainer.save_checkpoint(self.best_path)
        if improved and self.best_path.is_file():
            self._let_last_be_best(trainer)
        else:
            trainer.save_checkpoint(self.last_path)
        self._stop_if_asked(trainer, save=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See to it that there is a best checkpoint to test.

        Raises:
            UserError: the monitored metric was never a number, or never measured.
        """
        if self.best_value is None:
            last = trainer.callback_metrics.get(self.monitor)
            raise UserError(
                f"{self.monitor} was {'not measured' if last is None else 'not a number'} in any epoch, so no epoch is "
                "the best: "
                + (
                    "set monitor.metric to one that is, or validate (trainer.limit_val_batches, "
                    "trainer.check_val_every_n_epoch)"
                    if last is None
                    else "training diverged, try a smaller optimizer.lr, or trainer.gradient_clip_norm=1"
                )
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._release()

    def _keep_predictions(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what the epoch says of val; a run that is killed before the checkpoint comes to this epoch again."""
        data, outputs = getattr(trainer, "datamodule", None), getattr(pl_module, "outputs", {}).get("val")
        if outputs and isinstance(data, ImageDataModule):
            predictions = collect(outputs, data, "val")
            if trainer.is_global_zero:
                predictions.write(self._run)

    def _let_last_be_best(self, trainer: L.Trainer) -> None:
        """Give the file of the best epoch, just written, its second name: files are replaced, and never changed."""
        if trainer.is_global_zero:
            with atomic_path(self.last_path) as temporary:
                try:
                    temporary.hardlink_to(self.best_path)
                except OSError:  # not every filesystem has hard links
                    shutil.copyfile(self.best_path, temporary)
        trainer.strategy.barrier()

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best_value is None:
            return True
        return value < self.best_value if self.mode == "min" else value > self.best_value

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None or not self._handlers:  # Lightning puts this one back once more after an error
            raise KeyboardInterrupt
        self._asked = number
        log.info("%s: saving after this step; once more stops at once", signal.Signals(number).name)

    def _stop_if_asked(self, trainer: L.Trainer, save: bool = True) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:  # all processes save together, so all must stop at the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            if save:
                trainer.save_checkpoint(self.last_path)
            log.info("saved; resume with: python train.py resume=%s", self._run.path)
            raise Interrupted(self._asked or signal.SIGTERM)

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
