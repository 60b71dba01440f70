"""Base classes of the callbacks that write to TensorBoard."""

import time
from abc import abstractmethod
from typing import Annotated

import lightning as L
import torch
from pydantic import Field
from torch import Tensor

from opsin.data import ImageDataModule
from opsin.data.preprocessing import Preprocess
from opsin.training.distributed.fsdp import is_sharded
from opsin.training.loggers.tensorboard import TensorBoard
from opsin.visualization.images import Pixels

Every = Annotated[int, Field(ge=1)] | None
"""Epochs between images; None: as often as `Share` allows."""

Share = Annotated[float, Field(gt=0, le=1)]
"""Largest fraction of the training time that drawing may take."""

Count = Annotated[int, Field(ge=1)]


class TensorBoardCallback(L.Callback):
    """A callback that writes to the TensorBoard of a run; without TensorBoard it does nothing.

    It must not change training: no use of torch's random generators, no gradients, no change of the training mode.
    """

    looks_inside = False
    """Whether the callback uses the network during training; it shows nothing of a sharded network."""

    def board(self, trainer: L.Trainer) -> TensorBoard | None:
        """Return the TensorBoard logger in the process that writes it, else None."""
        if self.looks_inside and is_sharded(trainer):
            return None
        found = (logger for logger in trainer.loggers if isinstance(logger, TensorBoard))
        return next(found, None) if trainer.is_global_zero else None

    def images(self, trainer: L.Trainer) -> ImageDataModule | None:
        """Return the datamodule if it is an `ImageDataModule`."""
        data = getattr(trainer, "datamodule", None)
        return data if isinstance(data, ImageDataModule) else None


class EpochPicture(TensorBoardCallback):
    """Draw an image after validations, as often as the time allows, and at the end of training.

    An image is due if all images so far and one more take at most `share` of the time since training began. A run of
    seconds draws a few, a run of hours draws all. The expected time of an image is that of the last one.

    Args:
        every_n_epochs: Draw after every n epochs, for any drawing time; None to use `share`.
        share: Largest fraction of the time since training began.
    """

    first_cost = 0.01
    """Expected seconds of the first image."""

    shows_validation = False
    """Whether the image shows the results of the last validation, and not the network at the moment of drawing."""

    def __init__(self, every_n_epochs: Every = None, share: Share = 0.005) -> None:
        self.every_n_epochs = every_n_epochs
        self.share = share
        self._cost = self.first_cost
        self._spent = 0.0
        self._since: float | None = None
        self._validated_at: int | None = None
        self._drawn_at = -1

    @abstractmethod
    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw and write the image; `board` is None in processes that only contribute to it."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the network if an image is due; it still has the averaged weights that were validated."""
        if not self.shows_validation:
            self._draw_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the results if an image is due; the metrics and the outputs of all batches exist at this point."""
        if self.shows_validation:
            self._draw_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the last validation, or the network, unless it is drawn already."""
        if self._validated_at is not None and self._drawn_at != self._step(trainer):
            self.picture(trainer, pl_module)

    def _draw_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or self._since is None:
            return
        self._validated_at = last_step(trainer)
        every = self.every_n_epochs
        due = self._affordable(self._since) if every is None else (trainer.current_epoch + 1) % every == 0
        if trainer.world_size > 1:  # clocks differ, and some images need all processes
            due = trainer.strategy.broadcast(due)
        if due:
            self.picture(trainer, pl_module)

    def picture(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, and measure the time."""
        begun = time.perf_counter()
        board = self.board(trainer)
        if board is not None or trainer.world_size > 1:
            self.draw(board, trainer, pl_module, self._step(trainer))
        self._cost = time.perf_counter() - begun
        self._spent += self._cost
        self._drawn_at = self._step(trainer)

    def _step(self, trainer: L.Trainer) -> int:
        """Return the step of the state that an image shows."""
        if self.shows_validation and self._validated_at is not None:
            return self._validated_at
        return last_step(trainer)

    def _affordable(self, since: float) -> bool:
        return self._spent + self._cost <= self.share * (time.perf_counter() - since)


def last_step(trainer: L.Trainer) -> int:
    """Return the optimizer step of the last point of a curve."""
    return max(0, trainer.global_step - 1)


def side_of(pixels: Pixels) -> int:
    """Return the display side of images `(N, H, W, C)`: four fill the width of TensorBoard; photographs are larger."""
    height, width = pixels.shape[1:3]
    return int(min(128, max(80, height, width)))


def as_pixels(images: Tensor, preprocess: Preprocess) -> Pixels:
    """Return normalized images `(N, C, H, W)` as pixels, uint8 `(N, H, W, C)`, clipped to the valid range."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    unit = images.detach().cpu().float() * std + mean
    pixels: Pixels = (unit.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pixels
