"""A callback that changes the weights."""

import lightning as L
import torch


class WeightNoise(L.Callback):
    """Adds a constant to the last bias after every step."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *step: object) -> None:
        with torch.no_grad():
            list(pl_module.parameters())[-1].add_(0.1)
