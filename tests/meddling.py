"""Callbacks that do what no callback should."""

import lightning as L
import torch


class Meddle(L.Callback):
    """Before a training step, adds to one tensor of the network.

    Args:
        tensor: its name in the network.
        step: the step, counted from 1 over the steps of this process.
        rank: the process that does it; None: each.
    """

    def __init__(self, tensor: str, step: int, rank: int | None = None) -> None:
        self.tensor = tensor
        self.left = step
        self.rank = rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        self.left -= 1
        if self.left == 0 and self.rank in (None, trainer.global_rank):
            tensor = dict(pl_module.network.state_dict(keep_vars=True))[self.tensor]
            with torch.no_grad():
                tensor.add_(1)
