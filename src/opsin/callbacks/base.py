"""What the callbacks here share."""

from lightning.pytorch.callbacks import Checkpoint


class EpochCallback(Checkpoint):
    """A callback whose `on_train_epoch_end` sees the epoch's training metrics.

    Lightning calls that hook of callbacks before the module's own, which logs those metrics; only for subclasses of
    `Checkpoint` (and EarlyStopping) it does so afterwards, in the order in which they are given.
    """


def is_metric(name: str) -> bool:
    """Whether a logged value measures the network, and not the machine or the schedule."""
    return name.startswith(("train/", "val/", "test/"))
