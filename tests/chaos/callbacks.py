"""Callbacks that make training fail."""

import math
from typing import Any

import lightning as L
import torch


class NaNAt(L.Callback):
    """Set every weight to NaN at a step.

    Args:
        step: Number of the step, from 1.
    """

    def __init__(self, step: int) -> None:
        self.left = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.left -= 1
        if self.left == 0:
            for parameter in pl_module.parameters():
                torch.nn.init.constant_(parameter, math.nan)


class MemoryFor(L.Callback):
    """Make training steps on more than a number of images fail like a GPU without free memory.

    Args:
        images: Largest batch that fits.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if len(batch.targets) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
