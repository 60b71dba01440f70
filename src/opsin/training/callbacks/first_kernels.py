"""The kernels of the first convolution during training."""

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import nn

from opsin.training.callbacks.tensorboard_base import EpochPicture
from opsin.training.loggers.tensorboard import TensorBoard
from opsin.visualization.images import Pixels, to_uint8

TAG = "pictures/first_kernels"
GAP, PAPER = 2, 255


class FirstKernels(EpochPicture):
    """Show the kernels of the first convolution before, during and after training.

    All kernels share one scale; gray is zero. A network without convolutions shows nothing; frozen kernels are shown
    once.
    """

    looks_inside = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the initial kernels."""
        super().on_train_start(trainer, pl_module)
        if trainer.global_step == 0:
            self.picture(trainer, pl_module)

    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw the kernels, enlarged."""
        first = next((layer for layer in pl_module.modules() if isinstance(layer, nn.Conv2d)), None)
        if board is None or first is None or (trainer.global_step and not first.weight.requires_grad):
            return
        weights = first.weight.detach().float().cpu().numpy()
        board.log_picture(TAG, kernel_picture(weights), step)


def kernel_picture(weights: NDArray[np.float32], side: int = 48) -> Pixels:
    """Return kernels side by side, each about `side` pixels large, in color if they have three channels.

    Args:
        weights: `(O, I, kh, kw)`; if I is not 1 or 3, the mean over I is shown.
        side: Side of a kernel in pixels.
    """
    if weights.shape[1] not in (1, 3):
        weights = weights.mean(axis=1, keepdims=True)
    number, channels, height, width = weights.shape
    largest = float(np.abs(weights).max()) or 1.0
    scale = max(1, side // max(height, width))
    pixels = to_uint8(weights, -largest, largest).transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    pixels = np.pad(pixels, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=PAPER)
    columns = min(number, max(8, round(number**0.5)))
    rows = -(-number // columns)
    sheet = np.full((rows * columns, *pixels.shape[1:]), PAPER, np.uint8)
    sheet[:number] = pixels
    sheet = sheet.reshape(rows, columns, *pixels.shape[1:]).transpose(0, 2, 1, 3, 4)
    return sheet.reshape(rows * pixels.shape[1], columns * pixels.shape[2], channels)
