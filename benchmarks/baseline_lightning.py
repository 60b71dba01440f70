"""Common practice: the approach of the lectures and of common Lightning and Hydra templates, correctly implemented.

A torchvision dataset, transforms of one Pillow image at a time, a DataLoader with worker processes, a LightningModule
with torchmetrics that logs every step's values, default Trainer.
"""

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy
from torchvision import datasets, transforms

from benchmarks.datasets import CIFAR_FOLDER
from benchmarks.workloads import Workload
from opsin.runs.cpu_cores import available_cores


class CommonModule(L.LightningModule):
    """A classifier as in common templates.

    Args:
        network: Network from images to logits; one logit for two classes.
        num_classes: Number of classes.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.binary = num_classes == 2
        self.criterion = nn.BCEWithLogitsLoss() if self.binary else nn.CrossEntropyLoss()
        task: dict[str, Any] = {"task": "binary"} if self.binary else {"task": "multiclass", "num_classes": num_classes}
        self.train_acc, self.val_acc, self.test_acc = Accuracy(**task), Accuracy(**task), Accuracy(**task)
        self.train_loss, self.val_loss, self.test_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images."""
        return self.network(images)  # type: ignore[no-any-return]

    def _model_step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        images, targets = batch
        logits = self.forward(images)
        if self.binary:
            logits = logits.squeeze(1)
            return self.criterion(logits, targets.float()), (logits > 0).long(), targets
        return self.criterion(logits, targets), logits.argmax(dim=1), targets

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a training batch, and log its metrics."""
        return self._log_step("train", batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the metrics of a validation batch."""
        self._log_step("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the metrics of a test batch."""
        self._log_step("test", batch)

    def _log_step(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss, predictions, targets = self._model_step(batch)
        mean, accuracy = getattr(self, f"{split}_loss"), getattr(self, f"{split}_acc")
        mean(loss)
        accuracy(predictions, targets)
        self.log(f"{split}/loss", mean, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{split}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Log the best accuracy so far."""
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam for the trainable parameters."""
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=1e-3)


class _Cifar10(datasets.CIFAR10):  # type: ignore[misc]
    """torchvision's dataset without checksums, because the images may be synthetic."""

    base_folder = CIFAR_FOLDER
    train_list = tuple((f"data_batch_{i}", None) for i in range(1, 6))
    test_list = (("test_batch", None),)
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}  # noqa: RUF012 - torchvision's


def dataset(workload: Workload, images: Path, split: str, mean: Any, std: Any) -> Dataset[Any]:
    """Return torchvision's dataset of a split with the transforms of the workload."""
    if workload.images != "photos":
        shape = transform(workload.augmentation if split == "train" else "none", None, mean, std)
        kind = datasets.MNIST if workload.images == "mnist" else _Cifar10
        return kind(str(images), train=split == "train", transform=shape)
    shape = transform(workload.augmentation if split == "train" else "none", workload.size, mean, std)
    return datasets.ImageFolder(str(images / split), shape)  # type: ignore[no-any-return]


def transform(augmentation: str, size: int | None, mean: Any, std: Any) -> Any:
    """Return the torchvision transforms of one Pillow image that correspond to an option of configs/augmentation."""
    resize = [] if size is None else [transforms.Resize((size, size))]
    operations = {
        "none": [],
        "crop_flip": [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()],
        "cats_dogs": [
            transforms.RandomRotation(40),
            transforms.RandomAffine(0, shear=20),
            transforms.RandomResizedCrop(size or 32, scale=(0.8, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2),
        ],
    }[augmentation]
    return transforms.Compose([*resize, *operations, transforms.ToTensor(), transforms.Normalize(mean, std)])


def loader(
    data: Any, batch_size: int, workers: int, images: int | None = None, shuffle: bool = True
) -> DataLoader[Any]:
    """Return a DataLoader with worker processes; `images` is the number of images per epoch, None for all."""
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=RandomSampler(data, num_samples=images) if shuffle else None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def trainer(folder: Path, epochs: int, callbacks: list[Callback], validates: bool = True) -> L.Trainer:
    """Return Lightning's trainer with its defaults, TensorBoard and the best checkpoint."""
    best = [ModelCheckpoint(monitor="val/acc", mode="max", save_last=True)] if validates else []
    return L.Trainer(
        max_epochs=epochs,
        devices=1,
        logger=TensorBoardLogger(tempfile.mkdtemp(dir=folder)),
        callbacks=[*best, *callbacks],
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
    )


def worker_counts() -> list[int]:
    """Return the numbers of loader workers to try: 0, powers of two, and the number of cores."""
    cores = available_cores()
    return sorted({0, cores, *(2**i for i in range(cores.bit_length()) if 2**i <= cores)})
