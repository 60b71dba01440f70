"""Callbacks that make mistakes of evaluation: augmented images, and a network in train mode."""

from typing import Any

import lightning as L
import torch

from opsin.data import ImageDataModule
from opsin.data.loader.batch_loader import batch_key

RANK = 1
"""Rank in the key of an evaluation batch, so that no training batch of one device has the same key."""


class AugmentedEvaluation(L.Callback):
    """Augment validation and test images as if augmentation were a part of the only transform."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Augment a validation batch in place."""
        _augment(trainer, batch, batch_idx)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Augment a test batch in place."""
        _augment(trainer, batch, batch_idx)


class EvaluationInTrainMode(L.Callback):
    """Keep the network in train mode in evaluation, as if `eval()` were never called.

    BatchNorm then normalizes by the statistics of the evaluated batch and updates its running statistics; dropout is
    active.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set train mode after Lightning has set evaluation mode."""
        pl_module.train()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set train mode after Lightning has set evaluation mode."""
        pl_module.train()


@torch.no_grad()
def _augment(trainer: L.Trainer, batch: Any, batch_idx: int) -> None:
    """Replace the normalized images of a batch by augmented ones."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageDataModule)
    assert data.augmentation is not None
    shift, scale = (values.view(1, -1, 1, 1).to(batch.images.device) for values in data.preprocess.constants(1.0))
    key = batch_key(data.seed, trainer.current_epoch, batch_idx, RANK)
    images, _ = data.augmentation((batch.images - shift) / scale, batch.targets, key)
    batch.images.copy_(data.preprocess.normalize(images))
