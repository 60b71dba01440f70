"""Checks of the length of a run before it trains: batches, validations and phases that it would never reach."""

import logging
import math

from opsin.config.signatures import defaults
from opsin.data import ImageDataModule
from opsin.models.fine_tuning import FreezeSchedule
from opsin.training.plan import RunPlan
from opsin.training.validation_schedule import validation_steps

log = logging.getLogger(__name__)


def check_run_length(plan: RunPlan, data: ImageDataModule) -> None:
    """Check that a new run trains, validates in every epoch and reaches its first change of trained stages.

    Args:
        plan: The checked config.
        data: The datamodule after `setup("fit")`, with the batch size of the run.

    Raises:
        UserError: There are no training batches, validations are further apart than an epoch, or `trainer.max_steps`
            ends training before a phase.
    """
    options, steps = plan.trainer, steps_per_epoch(plan, data)
    if options.validates_within_epochs:
        validation_steps(options.val_check_interval, steps)
    if options.max_steps >= 0:
        begun = math.ceil(options.max_steps / steps)
        length = f"trainer.max_steps={options.max_steps} is {begun} epochs of {steps} steps"
        plan.fine_tuning.check_length(begun, length)


def steps_per_epoch(plan: RunPlan, data: ImageDataModule) -> int:
    """Return the number of optimizer steps of an epoch.

    Raises:
        UserError: There are no training batches.
    """
    batches = data.train_dataloader().limit(plan.trainer.limit_train_batches, "trainer.limit_train_batches")
    return math.ceil(batches / plan.trainer.accumulate_grad_batches)


def warn_unreached(plan: RunPlan, data: ImageDataModule, schedule: FreezeSchedule) -> None:
    """Log a warning for what the run never reaches: later phases, and the learning rate after a warm-up or a rise.

    Args:
        plan: The checked config.
        data: The datamodule after `setup("fit")`, with the batch size of the run.
        schedule: The stages that train, by epoch.
    """
    epochs, limit = _length(plan, data)
    missed = [phase for phase in schedule.phases if phase.epoch >= epochs]
    if missed:
        begun = schedule.at(math.ceil(epochs) - 1).trainable
        names = [stage for stage in schedule.ever_trained if stage not in begun]
        log.warning(
            "%s ends training before the phase at epoch %d%s",
            limit,
            missed[0].epoch,
            f": {', '.join(names)} never train{'s' * (len(names) == 1)}" if names else "",
        )
    schedule_options = {**defaults(plan.schedule.call), **plan.schedule.arguments}
    warmup, rise = schedule_options.get("warmup_epochs", 0), schedule_options.get("step_size_up", 0)
    if warmup >= epochs:
        log.warning(
            "scheduler.warmup_epochs=%g is not below %s: the learning rate never reaches optimizer.lr", warmup, limit
        )
    if rise >= epochs:  # torch's CyclicLR, whose default of 2000 counts batches elsewhere
        log.warning(
            "scheduler.step_size_up=%g counts epochs and is not below %s: the learning rate never reaches "
            "scheduler.max_lr",
            rise,
            limit,
        )


def _length(plan: RunPlan, data: ImageDataModule) -> tuple[float, str]:
    """Return the number of epochs of the run, a fraction if `trainer.max_steps` ends it, and the setting that ends it.

    The setting is text for messages.
    """
    options = plan.trainer
    if options.max_steps >= 0:
        steps = steps_per_epoch(plan, data)
        if (epochs := options.max_steps / steps) < options.max_epochs:
            return epochs, f"trainer.max_steps={options.max_steps} ({steps} steps per epoch)"
    return options.max_epochs, f"trainer.max_epochs={options.max_epochs}"
