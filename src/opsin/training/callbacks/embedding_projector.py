"""Embeddings of validation images for the TensorBoard projector."""

import contextlib

import lightning as L
import numpy as np
import torch

from opsin.data.subset import evenly_spaced
from opsin.models import Network
from opsin.training.callbacks.tensorboard_base import Count, TensorBoardCallback
from opsin.training.feature_extraction import Extractor
from opsin.visualization.images import resize, rgb

TAG = "val"
THUMBNAIL, SHEET = 64, 2048
"""Largest sides in pixels: of an image, and of the sheet of all images, which the browser loads."""


class EmbeddingProjector(TensorBoardCallback):
    """Show embeddings of validation images, computed by the best checkpoint, in the projector of TensorBoard.

    Args:
        count: Number of images, evenly spaced.
    """

    def __init__(self, count: Count = 500) -> None:
        self.count = count

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write embeddings, labels and thumbnails; the best checkpoint is loaded for the test."""
        board, data, network = self.board(trainer), self.images(trainer), getattr(pl_module, "network", None)
        if board is None or data is None or not isinstance(network, Network):
            return
        subset = data.subset("val")
        positions = evenly_spaced(len(subset), self.count)
        pixels, targets = subset.read(positions), subset.targets[positions]
        extractor = Extractor(
            network,
            (network.embedding_step,),
            pl_module.device,
            trainer.precision_plugin.forward_context,
            str(trainer.precision),
            vectors=True,
        )
        embeddings = []
        for start in range(0, len(pixels), data.eval_batch_size):
            rows = torch.from_numpy(pixels[start : start + data.eval_batch_size]).permute(0, 3, 1, 2)
            images = data.preprocess(rows.to(pl_module.device)).to(pl_module.dtype)
            embeddings.append(torch.from_numpy(extractor(images)))
        side = min(THUMBNAIL, SHEET // (int(len(pixels) ** 0.5) + 1), max(pixels.shape[1:3]))
        thumbnails = torch.from_numpy(np.stack([resize(rgb(image), (side, side)) for image in pixels]))
        with contextlib.redirect_stdout(None):  # it prints a warning if a resume writes the files of a step again
            board.experiment.add_embedding(
                torch.cat(embeddings),
                metadata=[data.source.classes[i] for i in targets],
                label_img=thumbnails.permute(0, 3, 1, 2).float() / 255,
                global_step=trainer.global_step,
                tag=TAG,
            )
