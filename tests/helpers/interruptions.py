"""A callback that stops a run like Ctrl-C, a scheduler or an error."""

import signal

import lightning as L


class StopAt(L.Callback):
    """Raise a signal or an exception after a number of training steps.

    Args:
        step: Number of steps of this process.
        how: `SIGINT`, `SIGTERM` or `error`.
    """

    def __init__(self, step: int, how: str = "SIGINT") -> None:
        self.left = step
        self.how = how

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how == "error":
                raise RuntimeError("error of the test")
            signal.raise_signal(getattr(signal, self.how))
