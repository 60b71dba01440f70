"""The first batch of a run, as the network sees it."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from opsin.data import Batch, ImageDataModule
from opsin.training.callbacks.tensorboard_base import Count, TensorBoardCallback, as_pixels, side_of
from opsin.visualization.images import Pixels, grid

TAG = "pictures/train_batch"


class BatchImages(TensorBoardCallback):
    """Shows images of the first training batch: augmented, mixed, at the network's size, their labels beneath.

    Where cached features are served in place of pixels, the images that they were computed from are shown.

    Args:
        count: how many images.
    """

    def __init__(self, count: Count = 16) -> None:
        self.count = count

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Show the run's first batch; Lightning passes over the hook from then on."""
        board, data = self.board(trainer), self.images(trainer)
        if trainer.current_epoch == batch_idx == 0 and board is not None and data is not None:
            picture = batch_picture(batch, data, self.count)
            board.log_picture(TAG, picture, trainer.global_step)
        self.on_train_batch_start = None  # type: ignore[method-assign,assignment]


def batch_picture(batch: Batch, data: ImageDataModule, count: int) -> Pixels:
    """Images of a training batch in a grid.

    Args:
        batch: as the network gets it.
        data: where it is from.
        count: how many images, at most.
    """
    if batch.features_of is None:
        pixels, title = as_pixels(batch.images[:count], data.preprocess), "The first batch, as the network sees it"
    else:
        pixels = data.subset("train").read(batch.positions[:count].numpy())
        title = f"Images whose {batch.features_of} is cached"
    captions = [labels(target, data.source.classes) for target in batch.targets[: len(pixels)].cpu()]
    return grid(list(pixels), columns=4, side=side_of(pixels), captions=captions, title=title)


def labels(target: Tensor, classes: tuple[str, ...]) -> str:
    """One class, or the shares of the two largest where images were mixed."""
    if target.ndim == 0:
        return classes[int(target)]
    shares, found = torch.topk(target, min(2, len(target)))
    named = zip(found.tolist(), shares.tolist(), strict=True)
    return "\n".join(f"{classes[i]} {share:.2f}" for i, share in named if share > 0)
