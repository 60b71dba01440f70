"""Prune a run that does worse than the other runs of its sweep."""

import logging
from typing import Annotated, Any, Literal

import lightning as L
from pydantic import Field

from opsin.sweeps.study import has_report, make_pruner, trial_at
from opsin.training.callbacks.base import EpochCallback

log = logging.getLogger(__name__)


class Pruning(EpochCallback):
    """Report every epoch to the study of a sweep, and stop the run if Optuna prunes it.

    Args:
        monitor: metric to report.
        storage: path of the journal of the study, or URL of a database.
        study: name of the study.
        trial: number of this run's trial.
        pruner: `median` or `halving`.
        epochs: number of epochs before a run may be pruned.

    Attributes:
        reason: why the run was pruned; None if it was not.
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
        """Open the study in the process that writes."""
        if trainer.is_global_zero:
            self._trial = trial_at(*self._place)

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Report an epoch, and stop the run if it is pruned; validations within an epoch do not count."""
        value = metrics.get(self.monitor)
        if value is None or not isinstance(epoch, int):
            return
        pruned = False
        if self._trial is not None:
            if not has_report(self._trial, epoch):
                self._trial.report(value, epoch)  # a resumed run repeats some epochs
            pruned = epoch != trainer.max_epochs and self._trial.should_prune()  # the last epoch saves no time
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            self.reason = f"pruned: {self.monitor} {value:.4f} after {epoch} epochs"
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log why training ended."""
        if self.reason and trainer.is_global_zero:
            log.info("%s", self.reason)
