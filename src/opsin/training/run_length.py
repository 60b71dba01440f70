"""Checks of the length of a run before it trains: batches, validations and phases that it would never reach."""

import logging
import math
from collections.abc import Sequence

from opsin.data import ImageDataModule
from opsin.errors import UserError
from opsin.models.fine_tuning import FreezeSchedule
from opsin.runs.metric_registry import split_of
from opsin.training.plan import RunPlan
from opsin.training.validation_schedule import validation_steps

log = logging.getLogger(__name__)


def check_run_length(plan: RunPlan, data: ImageDataModule, metrics: Sequence[tuple[str, str]]) -> None:
    """Check that a new run trains, measures every monitored metric and reaches its first change of trained stages.

    Args:
        plan: The checked config.
        data: The datamodule after `setup("fit")`, with the batch size of the run.
        metrics: Every key of the config that names a metric, with the metric.

    Raises:
        UserError: There are no training batches, `trainer.max_steps` ends training before the first validation or
            before a phase, or validations are further apart than an epoch.
    """
    options, steps = plan.trainer, steps_per_epoch(plan, data)
    interval = options.val_check_interval if options.validates_within_epochs else steps
    first_validation = steps * (options.check_val_every_n_epoch - 1) + validation_steps(interval, steps)[0]
    if options.max_steps < 0:
        return
    for key, name in metrics:
        if split_of(name) == "val" and options.max_steps < first_validation:
            raise UserError(
                f"{key}={name} is never measured: trainer.max_steps={options.max_steps} ends training before the "
                f"first validation, at step {first_validation}. Raise max_steps, or monitor a metric of train/"
            )
    begun = math.ceil(options.max_steps / steps)
    plan.fine_tuning.check_length(begun, f"trainer.max_steps={options.max_steps} is {begun} epochs of {steps} steps")


def steps_per_epoch(plan: RunPlan, data: ImageDataModule) -> int:
    """Return the number of optimizer steps of an epoch.

    Raises:
        UserError: There are no training batches.
    """
    batches = data.train_dataloader().limit(plan.trainer.limit_train_batches, "trainer.limit_train_batches")
    return math.ceil(batches / plan.trainer.accumulate_grad_batches)


def warn_unreached(plan: RunPlan, schedule: FreezeSchedule) -> None:
    """Log a warning for what the run never reaches: later phases, and the learning rate after a warm-up.

    Args:
        plan: The checked config.
        schedule: The stages that train, by epoch.
    """
    epochs = plan.trainer.max_epochs
    missed = [phase for phase in schedule.phases if phase.epoch >= epochs]
    if missed:
        begun = schedule.at(epochs - 1).trainable
        names = [stage for stage in schedule.ever_trained if stage not in begun]
        log.warning(
            "trainer.max_epochs=%d ends training before the phase at epoch %d%s",
            epochs,
            missed[0].epoch,
            f": {', '.join(names)} never train" if names else "",
        )
    warmup = plan.schedule.arguments.get("warmup_epochs", 0)
    if warmup >= epochs:
        log.warning(
            "scheduler.warmup_epochs=%g is not below trainer.max_epochs=%d: the learning rate never reaches its value",
            warmup,
            epochs,
        )
