"""A callback that slows a run, so that a test can interrupt it."""

import sys
import time

import lightning as L


class Slow(L.Callback):
    """Says `slowly` at the first training step of a process, and sleeps before every one.

    Args:
        seconds: Per step.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.said = False

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        if not self.said:
            sys.stdout.write("slowly\n")
            sys.stdout.flush()
        self.said = True
        time.sleep(self.seconds)
