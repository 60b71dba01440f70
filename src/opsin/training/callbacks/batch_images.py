"""Images of the first batch, as the network gets them."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from opsin.data import Batch, ImageDataModule
from opsin.training.callbacks.tensorboard_base import Count, TensorBoardCallback, as_pixels, side_of
from opsin.visualization.images import Pixels, grid

TAG = "pictures/train_batch"


class BatchImages(TensorBoardCallback):
    """Show images of the first training batch in TensorBoard: augmented, mixed and resized, with their labels.

    If batches hold cached features, it shows the images of those features.

    Args:
        count: Number of images.
    """

    def __init__(self, count: Count = 16) -> None:
        self.count = count

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the first batch of the run; Lightning skips the hook afterwards."""
        board, data = self.board(trainer), self.images(trainer)
        if trainer.current_epoch == batch_idx == 0 and board is not None and data is not None:
            picture = batch_picture(batch, data, self.count)
            board.log_picture(TAG, picture, trainer.global_step)
        self.on_train_batch_start = None  # type: ignore[method-assign,assignment]


def batch_picture(batch: Batch, data: ImageDataModule, count: int) -> Pixels:
    """Return images of a training batch in a grid.

    Args:
        batch: The batch as the network gets it.
        data: The datamodule of the batch.
        count: Largest number of images.
    """
    if batch.features_of is None:
        pixels, title = as_pixels(batch.images[:count], data.preprocess), "First batch, as the network gets it"
    else:
        pixels = data.subset("train").read(batch.positions[:count].numpy())
        title = f"Images whose {batch.features_of} is cached"
    captions = [labels(target, data.source.classes) for target in batch.targets[: len(pixels)].cpu()]
    return grid(list(pixels), columns=4, side=side_of(pixels), captions=captions, title=title)


def labels(target: Tensor, classes: tuple[str, ...]) -> str:
    """Return the class, or the fractions of the two largest classes of a mixed image."""
    if target.ndim == 0:
        return classes[int(target)]
    shares, found = torch.topk(target, min(2, len(target)))
    named = zip(found.tolist(), shares.tolist(), strict=True)
    return "\n".join(f"{classes[i]} {share:.2f}" for i, share in named if share > 0)
