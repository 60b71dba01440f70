"""The training throughput."""

import statistics
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

IMAGES_PER_SECOND = "throughput/images_per_second"
"""Name of the logged value."""


class Throughput(Callback):
    """Measure training images per second, without validations and checkpoints, and log it for each epoch.

    Attributes:
        by_epoch: Images per second of each complete epoch of this process, over all devices.
    """

    def __init__(self) -> None:
        self.by_epoch: list[float] = []
        self._images = 0
        self._seconds = 0.0
        self._since: float | None = None
        self._paused = False

    @property
    def images_per_second(self) -> float | None:
        """The median over the epochs without the first, which warms up, unless it is the only one."""
        epochs = self.by_epoch[1:] or self.by_epoch
        return statistics.median(epochs) if epochs else None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock again after a validation within the epoch and the work that follows it."""
        if self._paused:
            self._paused, self._since = False, time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock for a validation within the epoch."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._paused, self._since = True, None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and stop the clock after the epoch's last step."""
        self._images += len(batch.targets)
        if self._since is not None and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if pl_module.device.type == "cuda":
                outputs["loss"].item()  # the step is queued but not finished
            seconds = self._seconds + time.perf_counter() - self._since
            self.by_epoch.append(self._images * trainer.world_size / seconds)
            self._since = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the throughput of a complete epoch."""
        if self._since is None and self._images and self.by_epoch and not self._paused:
            pl_module.log(IMAGES_PER_SECOND, self.by_epoch[-1], rank_zero_only=True)
            self._images = 0
