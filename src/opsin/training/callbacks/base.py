"""What the callbacks here share."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from opsin.runs.metric_registry import split_of


class EpochCallback(Checkpoint):
    """A callback whose `on_train_epoch_end` sees the epoch's training metrics.

    Lightning calls that hook of callbacks before the module's own, which logs those metrics; only for subclasses of
    `Checkpoint` (and EarlyStopping) it does so afterwards, in the order in which they are given.
    """


def is_metric(name: str) -> bool:
    """Whether a logged value measures the network, and not the machine or the schedule."""
    return split_of(name) != ""


def epoch_metrics(trainer: L.Trainer) -> dict[str, float]:
    """What was measured in the epoch that ends; Lightning also keeps the values of earlier validations."""
    every = trainer.check_val_every_n_epoch
    validated = every is None or (trainer.current_epoch + 1) % every == 0
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if split_of(name) == "train" or (validated and split_of(name) == "val")
    }
