"""The early end of a run that does worse than the others of its sweep."""

import logging
from typing import Annotated, Any, Literal

import lightning as L
from pydantic import Field

from opsin.sweeps.study import has_report, make_pruner, trial_at
from opsin.training.callbacks.base import EpochCallback, epoch_metrics

log = logging.getLogger(__name__)


class Pruning(EpochCallback):
    """Reports every epoch to the study of a sweep, and ends the run where Optuna finds it not worth going on.

    Args:
        monitor: metric to report.
        storage: where the study lies: a journal, or the URL of a database.
        study: its name.
        trial: number of this run's trial.
        pruner: who decides: `median` or `halving`.
        epochs: after which a run may be ended for the first time.

    Attributes:
        reason: why the run was ended, in words; None if it was not.
    """

    def __init__(
        self,
        monitor: str,
        storage: str,
        study: str,
        trial: Annotated[int, Field(ge=0)],
        pruner: Literal["median", "halving"],
        epochs: Annotated[int, Field(ge=1)] = 3,
    ) -> None:
        super().__init__()
        self.monitor = monitor
        self.reason: str | None = None
        self._place = (storage, study, trial, make_pruner(pruner, epochs))
        self._trial: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the study, in the process that writes."""
        if trainer.is_global_zero:
            self._trial = trial_at(*self._place)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the epoch, and end the run if it is not worth going on."""
        value = epoch_metrics(trainer).get(self.monitor)
        if value is None:
            return
        pruned = False
        if self._trial is not None:
            epoch = trainer.current_epoch + 1
            if not has_report(self._trial, epoch):
                self._trial.report(value, epoch)  # one that was cut off comes to some epochs twice
            pruned = epoch != trainer.max_epochs and self._trial.should_prune()  # at the end, nothing would be saved
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            self.reason = f"pruned: {self.monitor} {value:.4f} after {trainer.current_epoch + 1} epochs"
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell why training ended."""
        if self.reason and trainer.is_global_zero:
            log.info("%s", self.reason)
