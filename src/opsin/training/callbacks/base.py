"""Base classes and metrics of the callbacks."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from opsin.runs.metric_registry import split_of
from opsin.training.validation_schedule import ValidationSchedule


class MeasuredHook(L.Callback):
    """A callback with one hook for every moment at which the metrics of a run are known.

    These are the end of each epoch, and each validation within an epoch. If training stops at a validation within an
    epoch, its end is not such a moment. Without validations, the step at which training stops is one.
    """

    _validated_at = -1

    def on_measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: float, metrics: dict[str, float]
    ) -> None:
        """Use the metrics.

        Args:
            trainer: The trainer.
            pl_module: The module.
            epoch: Number of trained epochs; a fraction within an epoch.
            metrics: Metrics of this moment: of the validation within an epoch, or of the epoch and its validation.
        """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the step, and use the metrics of a validation within an epoch."""
        if trainer.state.fn != "fit":
            return
        self._validated_at = trainer.global_step
        if is_within_epoch(trainer):
            self.on_measured(trainer, pl_module, _trained_epochs(trainer), current_metrics(trainer, ("val",)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Use the metrics of the epoch."""
        validated = self._validated_at == trainer.global_step
        if validated and is_within_epoch(trainer):
            return
        splits = ("train", "val") if validated else ("train",)
        self.on_measured(trainer, pl_module, _trained_epochs(trainer), current_metrics(trainer, splits))


class EpochCallback(MeasuredHook, Checkpoint):
    """A callback whose `on_train_epoch_end` can read the training metrics of the epoch.

    Lightning calls this hook of callbacks before the hook of the module, which logs those metrics. Only for subclasses
    of `Checkpoint` and `EarlyStopping` it calls the hook afterwards, in the order of the callbacks.
    """


def step_rates(trainer: L.Trainer) -> dict[str, float]:
    """Return the learning rates of the next optimizer step by part of the network, such as `head`.

    At the end of a step, the schedule has already set the rates of the step after it.
    """
    groups = trainer.optimizers[0].param_groups
    return {group.get("name", "all").partition("/")[0]: group["lr"] for group in groups}


def is_metric(name: str) -> bool:
    """Return whether a logged value is a metric of the network, and not of the machine or the schedule."""
    return split_of(name) != ""


def is_within_epoch(trainer: L.Trainer) -> bool:
    """Return whether the current batch is not the last one of its epoch."""
    return not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def measurement_follows(trainer: L.Trainer) -> bool:
    """Return whether the metrics are measured between the current step and the next one.

    They are after the last step of an epoch. Within an epoch they are at the steps of `trainer.val_check_interval`, and
    at the step at which training ends.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    scheduled = any(isinstance(callback, ValidationSchedule) and callback.is_due(trainer) for callback in callbacks)
    ends = trainer.should_stop or trainer.global_step == trainer.max_steps
    return scheduled or ends or not is_within_epoch(trainer)


def _trained_epochs(trainer: L.Trainer) -> float:
    """Return the number of trained epochs: an integer at the end of an epoch, a fraction within it."""
    if not is_within_epoch(trainer):
        return trainer.current_epoch + 1
    done = trainer.fit_loop.epoch_loop.batch_progress.current.ready / trainer.num_training_batches
    return round(trainer.current_epoch + done, 4)


def current_metrics(trainer: L.Trainer, splits: tuple[str, ...]) -> dict[str, float]:
    """Return the metrics of some splits; Lightning keeps those of earlier epochs and validations too."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if split_of(name) in splits}
