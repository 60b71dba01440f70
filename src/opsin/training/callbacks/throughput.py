"""The training throughput."""

import statistics
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class Throughput(Callback):
    """Measure training images per second, without validation and checkpoints.

    Attributes:
        by_epoch: images per second of each complete epoch of this process, over all devices.
    """

    def __init__(self) -> None:
        self.by_epoch: list[float] = []
        self._images = 0
        self._since: float | None = None

    @property
    def images_per_second(self) -> float | None:
        """Return the median over the epochs without the first, which warms up, unless it is the only one."""
        epochs = self.by_epoch[1:] or self.by_epoch
        return statistics.median(epochs) if epochs else None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and stop the clock after the epoch's last step."""
        self._images += len(batch.targets)
        if self._since is not None and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if pl_module.device.type == "cuda":
                outputs["loss"].item()  # the step is queued but not finished
            seconds = time.perf_counter() - self._since
            self.by_epoch.append(self._images * trainer.world_size / seconds)
            pl_module.log("throughput/images_per_second", self.by_epoch[-1], rank_zero_only=True)
            self._since = None
