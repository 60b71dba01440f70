"""Brightness, contrast and saturation of a batch as one color matrix per sample."""

import numpy as np
import torch
from torch import Tensor

from opsin.data.augmentation.geometry import Array

LUMA = np.array([0.2989, 0.587, 0.114])  # red, green, blue in gray: ITU-R BT.601 as torchvision rounds it


def color_matrices(channels: int, *, brightness: Array, contrast: Array, saturation: Array) -> tuple[Array, Array]:
    """Fuse the three adjustments of torchvision's `ColorJitter`, each a factor `(B,)` with 1 for no change.

    With factors b, c and s, a pixel x of gray value g in an image of mean gray value m becomes
    `b (c (s x + (1 - s) g) + (1 - c) m)`. The three commute, except for the clamping to
    [0, 1], which torchvision does after each and `adjust_color` does once. One channel is its own gray
    value.

    Returns:
        Color matrices `(B, C, C)`, and weights `(B, C)` of the image's mean color in the constant to be
        added.
    """
    luma = LUMA if channels == 3 else np.full(channels, 1 / channels)
    desaturation = (1 - saturation)[:, None, None] * luma  # every row is the gray value
    matrices = saturation[:, None, None] * np.eye(channels) + desaturation
    return (brightness * contrast)[:, None, None] * matrices, (brightness * (1 - contrast))[:, None] * luma


def adjust_color(images: Tensor, matrices: Tensor, mean_weights: Tensor) -> Tensor:
    """Adjust images `(B, C, H, W)` in [0, 1], each with its own `color_matrices`; clamped to [0, 1]."""
    constant = (images.mean(dim=(2, 3)) * mean_weights).sum(dim=1)
    pixels = torch.baddbmm(constant[:, None, None], matrices, images.flatten(2))
    return pixels.clamp_(0, 1).view(images.shape)
