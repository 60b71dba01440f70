"""A callback that stops a run as a person, a scheduler or a fault would."""

import signal

import lightning as L


class StopAt(L.Callback):
    """After so many training steps: raise a signal, or an exception.

    Args:
        step: steps of this process.
        how: `SIGINT`, `SIGTERM` or `error`.
    """

    def __init__(self, step: int, how: str = "SIGINT") -> None:
        self.left = step
        self.how = how

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        self.left -= 1
        if self.left == 0:
            if self.how == "error":
                raise RuntimeError("out of luck")
            signal.raise_signal(getattr(signal, self.how))
