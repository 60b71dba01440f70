"""What the callbacks here share."""

from lightning.pytorch.callbacks import Checkpoint


class EpochCallback(Checkpoint):
    """A callback whose `on_train_epoch_end` sees the epoch's training metrics.

    Lightning calls that hook of callbacks before the module's own, which logs those metrics; only for subclasses of
    `Checkpoint` (and EarlyStopping) it does so afterwards, in the order in which they are given.
    """
