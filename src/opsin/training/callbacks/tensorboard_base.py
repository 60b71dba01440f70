"""What the callbacks that fill TensorBoard share: where they write, and how seldom they draw."""

import time
from abc import abstractmethod
from typing import Annotated

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.data.preprocessing import Preprocess
from opsin.training.distributed.fsdp import is_sharded
from opsin.training.tensorboard import TensorBoard
from opsin.visualization.images import Pixels

Every = Annotated[int, Field(ge=1)] | None
"""Epochs between pictures; None: as often as they cost little."""

Share = Annotated[float, Field(gt=0, le=1)]
"""Of the time since training began, what drawing may take."""

Count = Annotated[int, Field(ge=1)]


class TensorBoardCallback(L.Callback):
    """Shows something of a run in its TensorBoard; without one it does nothing.

    What it does must leave no trace in training: no draw from torch's generators, no gradient, no other mode.
    """

    looks_inside = False
    """Whether it looks into the network while it trains; nothing is shown of one that is divided among processes."""

    def board(self, trainer: L.Trainer) -> TensorBoard | None:
        """The run's TensorBoard, on the process that writes it."""
        if self.looks_inside and is_sharded(trainer):
            return None
        found = (logger for logger in trainer.loggers if isinstance(logger, TensorBoard))
        return next(found, None) if trainer.is_global_zero else None

    def images(self, trainer: L.Trainer) -> ImageDataModule | None:
        """Where the images are from, if it is Opsin's datamodule."""
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, ImageDataModule) else None


class EpochPicture(TensorBoardCallback):
    """Draws what a validation came to: as often as it costs little, and at the end of training.

    A picture is due when all those so far, and one more, take no more than `share` of the time since training began.
    So a run of seconds has a few, one of hours has them all, and neither is slowed. The time that one takes is that
    of the last.

    Args:
        every_n_epochs: draw after every so many epochs instead, whatever it costs.
        share: of the time since training began.
    """

    first_cost = 0.01
    """Seconds that the first picture is expected to take."""

    def __init__(self, every_n_epochs: Every = None, share: Share = 0.005) -> None:
        self.every_n_epochs = every_n_epochs
        self.share = share
        self._cost = self.first_cost
        self._spent = 0.0
        self._since: float | None = None
        self._validated = False
        self._drawn_at = -1

    @abstractmethod
    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw and write; `board` is None on processes that only contribute to what one of them draws."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw how it ended, unless the last validation was drawn."""
        if self._validated and self._drawn_at != last_step(trainer):
            self.picture(trainer, pl_module)

    def validated(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw if it is due; for the hook in which a subclass finds what it draws."""
        if trainer.state.fn != "fit" or self._since is None:
            return
        self._validated = True
        every = self.every_n_epochs
        due = self._affordable(self._since) if every is None else (trainer.current_epoch + 1) % every == 0
        if trainer.world_size > 1:  # clocks differ, and some pictures take all processes
            due = trainer.strategy.broadcast(due)
        if due:
            self.picture(trainer, pl_module)

    def picture(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, and see how long it takes."""
        begun = time.perf_counter()
        board = self.board(trainer)
        if board is not None or trainer.world_size > 1:
            self.draw(board, trainer, pl_module, last_step(trainer))
        self._cost = time.perf_counter() - begun
        self._spent += self._cost
        self._drawn_at = last_step(trainer)

    def _affordable(self, since: float) -> bool:
        return self._spent + self._cost <= self.share * (time.perf_counter() - since)


def last_step(trainer: L.Trainer) -> int:
    """The optimizer step that a curve's last point stands at."""
    return max(0, trainer.global_step - 1)


def side_of(pixels: Pixels) -> int:
    """How large to show images `(N, H, W, C)`: four fill the width that TensorBoard gives, photographs more."""
    height, width = pixels.shape[1:3]
    return int(min(128, max(80, height, width)))


def spread(length: int, count: int) -> NDArray[np.int64]:
    """At most `count` positions of `length`, evenly spread and always the same: classes often lie in a row."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


def as_pixels(images: Tensor, preprocess: Preprocess) -> Pixels:
    """Normalised images `(N, C, H, W)` as one sees them, uint8 `(N, H, W, C)`; beyond black and white is clipped."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    unit = images.detach().cpu().float() * std + mean
    pixels: Pixels = (unit.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels
