"""A callback that makes a run last, for whoever wants to disturb it."""

import time

import lightning as L


class Slow(L.Callback):
    """Sleeps before every training step.

    Args:
        seconds: per step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        time.sleep(self.seconds)
