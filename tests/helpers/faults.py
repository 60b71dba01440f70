"""A callback that fails as real runs do."""

import ctypes
import math
from typing import Literal

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
