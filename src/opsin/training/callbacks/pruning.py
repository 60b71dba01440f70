"""Prune a run that does worse than the other runs of its sweep: `make_pruner` decides when."""

import logging
from typing import TYPE_CHECKING, Annotated, Any, Literal

import lightning as L
from pydantic import Field

from opsin.sweeps.study import Pruner, has_report, is_finished, trial_at
from opsin.training.callbacks.base import EpochCallback

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)


def make_pruner(kind: Pruner, epochs: int) -> "BasePruner":
    """Return the pruner that ends trials which do worse than earlier ones.

    Args:
        kind: `median`: a trial is pruned if its best value so far is worse than the median of the complete trials at
            the same epoch; no trial is pruned before 4 are complete (Golovin et al. 2017, Google Vizier, 3.2).
            `halving`: a trial is pruned after epoch n, 3n, 9n, ... if it is not in the best third of the trials at that
            epoch (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, algorithm 2).
        epochs: First epoch n after which a trial may be pruned.
    """
    from optuna import pruners

    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs)
    if kind == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=epochs, reduction_factor=3)
    return pruners.NopPruner()


class Pruning(EpochCallback):
    """Report every epoch to the study of a sweep, and stop the run if Optuna prunes it.

    Args:
        monitor: Metric to report.
        storage: Path of the journal of the study, or URL of a database.
        study: Name of the study.
        trial: Number of this run's trial.
        pruner: `median` or `halving`.
        epochs: First epoch after which a run may be pruned.

    Attributes:
        reason: Why the run was pruned; None if it was not.
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

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the trial in the process that writes, unless it is finished: the run continues after its sweep."""
        if not trainer.is_global_zero:
            return
        trial = trial_at(*self._place)
        if is_finished(trial):
            log.info("trial %d of the sweep is finished, so this run is no longer compared and pruned", trial.number)
        else:
            self._trial = trial

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Report an epoch, and stop the run if it is pruned; validations within an epoch do not count."""
        value = metrics.get(self.monitor)
        if value is None or not isinstance(epoch, int):
            return
        pruned = False
        if self._trial is not None:
            if not has_report(self._trial, epoch):  # a resumed run repeats epochs that are already reported
                self._trial.report(value, epoch)
            # A stop after the last epoch saves no time.
            pruned = epoch != trainer.max_epochs and self._trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(pruned, all=False):
            self.reason = f"pruned: {self.monitor} {value:.4f} after {epoch} epochs"
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log why training ended."""
        if self.reason and trainer.is_global_zero:
            log.info("%s", self.reason)
