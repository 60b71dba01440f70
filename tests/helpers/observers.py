"""Callbacks that record what a run does, or change its network."""

from pathlib import Path

import lightning as L
import torch


class ChangeTensor(L.Callback):
    """Add 1 to a tensor of the network before a training step.

    Args:
        tensor: Name of the tensor in the network.
        step: The step, counted from 1 over the steps of this process.
        rank: Rank of the process that changes it; None for all.
    """

    def __init__(self, tensor: str, step: int, rank: int | None = None) -> None:
        self.tensor = tensor
        self.left = step
        self.rank = rank

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        self.count(trainer, pl_module)

    def count(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.left -= 1
        if self.left == 0 and self.rank in (None, trainer.global_rank):
            with torch.no_grad():
                pl_module.network.state_dict()[self.tensor].add_(1)


class ChangeInValidation(ChangeTensor):
    """Add 1 to a tensor of the network before a validation batch; `step` counts these batches."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        """Leave the training as it is."""

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.count(trainer, pl_module)


class Watch(L.Callback):
    """Record the trained stages and learning rates of each step, and the final weights of each process.

    Args:
        folder: Folder to write `<rank>.pt` to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.steps: list[dict] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: object) -> None:
        network = pl_module.network
        self.steps.append(
            {
                "epoch": trainer.current_epoch,
                "rates": {group["name"]: group["lr"] for group in optimizer.param_groups},
                "gradients": {name for name, p in network.named_parameters() if p.grad is not None},
                "training": {name for name, stage in network.stages.items() if stage.training},
            }
        )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.clone() for key, value in pl_module.network.state_dict().items()}
        torch.save({"state": state, "steps": self.steps}, self.folder / f"{trainer.global_rank}.pt")
