"""Whiten the patches of images in the first convolution of a network, before training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opsin.errors import UserError
from opsin.models.network import Network

NOISE = 5e-4
"""Variance that is added in each direction, so that directions without signal are not amplified."""


@torch.no_grad()
def whiten_stem(network: Network, images: Tensor) -> None:
    """Set filters of the first convolution so that its outputs are uncorrelated, with variance one.

    The filters are the directions of the largest variance of the patches, divided by their standard deviation, and the
    same with the opposite sign, because an activation follows that passes one sign. Filters beyond the two signs of all
    directions keep their values. Learning begins with well-scaled inputs and needs no training of these filters
    (Jordan, arXiv:2404.00498, section 3.2; Page, "How to train your ResNet 8", 2019).

    Args:
        network: The network.
        images: Normalized training images `(N, C, H, W)`.

    Raises:
        UserError: The first stage has no convolution of the images.
    """
    conv = next((part for part in _first_stage(network).modules() if isinstance(part, nn.Conv2d)), None)
    if conv is None or conv.in_channels != images.shape[1] or conv.groups != 1:
        raise UserError(
            f"model.whitened_stem=true: the first stage of {network.name} has no convolution of the images; "
            "set it to false"
        )
    patches = F.unfold(images, conv.kernel_size, conv.dilation, stride=conv.stride)
    patches = patches.transpose(1, 2).flatten(0, 1)
    variances, directions = torch.linalg.eigh((patches.T @ patches / len(patches)).double().cpu())
    scaled = (directions / (variances.clamp(min=0) + NOISE).sqrt()).T.flip(0)  # the largest variance first
    chosen = scaled[: conv.out_channels // 2]
    filters = torch.cat([chosen, -chosen]).view(-1, *conv.weight.shape[1:])
    conv.weight[: len(filters)] = filters.to(conv.weight)
    if conv.bias is not None:
        conv.bias[: len(filters)] = 0


def _first_stage(network: Network) -> nn.Module:
    return next(iter(network.stages.values()))
