"""A linear layer that trains for epochs of a few batches, with the trainer of a run."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from opsin.training.lightning_trainer import make_trainer
from opsin.training.trainer import TrainerOptions


class Linear(L.LightningModule):
    """A linear layer that logs a metric of train and of val."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    folder: Path,
    module: Linear,
    *callbacks: L.Callback,
    batches: int,
    checkpoint: Path | None = None,
    **options: Any,
) -> L.Trainer:
    """Train, and validate on one batch.

    Args:
        folder: Folder of the trainer.
        module: The module.
        *callbacks: Callbacks of the trainer.
        batches: Number of training batches of an epoch.
        checkpoint: The checkpoint to resume from.
        **options: Keys of the section `trainer`.
    """
    chosen = TrainerOptions(accelerator="cpu", **options)
    trainer = make_trainer(chosen, callbacks=list(callbacks), loggers=[], folder=folder)
    loaders = (DataLoader(list(torch.ones(count, 3, 2)), batch_size=None) for count in (batches, 1))
    trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
    return trainer
