"""Grad-CAM maps of a few validation images during training."""

import logging

import lightning as L
import torch

from opsin.data.subset import evenly_spaced
from opsin.errors import UserError
from opsin.interpretability.attribution import gradcam
from opsin.interpretability.eval_context import eval_context
from opsin.models import Network
from opsin.models.network import class_logits
from opsin.training.callbacks.tensorboard_base import Count, EpochPicture, Every, Share, side_of
from opsin.training.loggers.tensorboard import TensorBoard
from opsin.visualization.images import grid, overlay_heat

log = logging.getLogger(__name__)

TAG = "pictures/gradcam"


class GradCAM(EpochPicture):
    """Show Grad-CAM of the last stage for the true class of a few validation images, the same in every epoch.

    Each map is below its image, with the probability of the true class. A network whose last stage has no maps shows
    nothing.

    Args:
        count: Number of images.
        every_n_epochs: see `EpochPicture`.
        share: see `EpochPicture`.
    """

    looks_inside = True
    first_cost = 0.05

    def __init__(self, count: Count = 4, every_n_epochs: Every = None, share: Share = 0.01) -> None:
        super().__init__(every_n_epochs, share)
        self.count = count
        self._has_maps = True

    def draw(self, board: TensorBoard | None, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        """Draw images and maps."""
        network, data = getattr(pl_module, "network", None), self.images(trainer)
        if board is None or data is None or not isinstance(network, Network) or not self._has_maps:
            return
        subset = data.subset("val")
        positions = evenly_spaced(len(subset), self.count)
        pixels = subset.read(positions)
        images = data.preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(pl_module.device)).to(pl_module.dtype)
        targets = torch.from_numpy(subset.targets[positions]).to(pl_module.device)
        with eval_context(network) as plain, torch.no_grad():
            probabilities = class_logits(plain(images).float()).softmax(1)
        try:
            heat = gradcam(network, images, targets).numpy()
        except UserError as error:  # the last stage has no maps
            log.info("TensorBoard shows no class activation maps: %s", error)
            self._has_maps = False
            return
        own = probabilities.gather(1, targets[:, None])[:, 0].tolist()
        names = [data.source.classes[i] for i in targets.tolist()]
        captions = [f"{name} {value:.2f}" for name, value in zip(names, own, strict=True)]
        maps = [overlay_heat(image, map_) for image, map_ in zip(pixels, heat, strict=True)]
        picture = grid(
            [*pixels, *maps],
            columns=len(pixels),
            side=side_of(pixels),
            captions=[*names, *captions],
            title="Grad-CAM for the true class",
        )
        board.log_picture(TAG, picture, step)
