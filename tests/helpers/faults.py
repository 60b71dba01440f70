"""Callbacks for tests, which fail in the ways in which real runs do."""

import ctypes
import logging
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
