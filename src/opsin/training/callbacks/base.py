"""Base class and metrics of the callbacks."""

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from opsin.runs.metric_registry import split_of


class EpochCallback(Checkpoint):
    """A callback whose `on_train_epoch_end` sees the epoch's training metrics.

    Lightning calls this hook of callbacks before the hook of the module, which logs those metrics. Only for subclasses
    of `Checkpoint` and `EarlyStopping` it does so afterwards, in the order of the callbacks.
    """


def is_metric(name: str) -> bool:
    """Return whether a logged value is a metric of the network, and not of the machine or the schedule."""
    return split_of(name) != ""


def epoch_metrics(trainer: L.Trainer) -> dict[str, float]:
    """Return the metrics of the epoch that ends, without those of earlier validations, which Lightning keeps."""
    every = trainer.check_val_every_n_epoch
    validated = every is None or (trainer.current_epoch + 1) % every == 0
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if split_of(name) == "train" or (validated and split_of(name) == "val")
    }
