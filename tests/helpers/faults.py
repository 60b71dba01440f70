"""Callbacks for tests, which fail like real runs."""

import ctypes
import logging
import math
from typing import Any, Literal

import lightning as L
import torch


class Fault(L.Callback):
    """Fails in the first epoch: `diverge` sets every weight to NaN."""

    def __init__(self, kind: Literal["none", "segfault", "memory", "diverge"] = "none") -> None:
        self.kind = kind

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.kind == "segfault":
            ctypes.string_at(0)
        if self.kind == "memory":
            torch.ones(10**12)
        if self.kind == "diverge":
            for parameter in pl_module.parameters():
                torch.nn.init.constant_(parameter, math.nan)


class Tracker(L.Callback):
    """Holds a secret as the client of a tracking server does; logs it, and fails with it in the message."""

    def __init__(self, api_token: str, fails: bool = False) -> None:
        self.api_token = api_token
        self.fails = fails

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert "${" not in self.api_token
        logging.getLogger("tracker").warning("connected with %s", self.api_token)
        if self.fails:
            raise RuntimeError(f"401 for https://tracker/?token={self.api_token}")


class Poison(L.Callback):
    """Sets a weight to NaN before a step, or after one.

    Args:
        step: Number of optimizer steps that are completed.
        after: Whether to set it at the end of the step, when its loss is known.
    """

    def __init__(self, step: int, after: bool = False) -> None:
        self.step = step
        self.after = after

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        if trainer.global_step == self.step and not self.after:
            self._set(pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and self.after:
            self._set(pl_module)

    def _set(self, pl_module: L.LightningModule) -> None:
        with torch.no_grad():
            next(pl_module.parameters()).view(-1)[0] = math.nan


class LittleMemory(L.Callback):
    """Fails like a full GPU for batches above a size.

    Args:
        most: Largest number of images for which memory suffices.
        step: Number of completed steps from which memory is short.
        split: `train` or `val`.
    """

    def __init__(self, most: int, step: int = 0, split: Literal["train", "val"] = "train") -> None:
        self.most = most
        self.step = step
        self.split = split

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, index: int) -> None:
        self._use("train", batch, trainer)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._use("val", batch, trainer)

    def _use(self, split: str, batch: Any, trainer: L.Trainer) -> None:
        if split == self.split and trainer.global_step >= self.step and len(batch.targets) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB free.")
