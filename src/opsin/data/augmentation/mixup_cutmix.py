"""Mixup and CutMix: samples of a batch and their targets are combined in pairs.

`Augmentation` uses these functions for training batches only, in this order:

1. `draw_partners` draws the partner of each sample, its blend and its patch, after the parameters of all other
   operations.
2. `own_share` returns the share of its own pixels, and of its own class, that each sample keeps
   (`AugmentationParams.to`).
3. `mix_images` applies blend and patch, and `mix_targets` applies the share, after all other operations.

Mixup: Zhang et al., arXiv:1710.09412. CutMix: Yun et al., arXiv:1905.04899.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opsin.data.augmentation.geometry import Array, box_mask


def draw_partners(
    rng: np.random.Generator, count: int, size: tuple[int, int], *, mixup: float, cutmix: float
) -> tuple[npt.NDArray[np.int64], Array, Array]:
    """Draw the partner of each of B samples, and how the two are mixed.

    An alpha of 0 disables a method. With both enabled, a sample gets each of them with probability 0.5.

    Returns:
        Partner `(B,)`, the position of the other sample in the batch; blend `(B,)`, the sample's own share of
        the pixels outside its patch (1 under CutMix); patch `(B, 4)`, the box filled by the partner: top,
        left, height, width in whole pixels (empty under Mixup).
    """
    if not (mixup or cutmix):
        return np.arange(count), np.ones(count), np.zeros((count, 4))
    patched = rng.random(count) < (0.5 if mixup and cutmix else float(cutmix > 0))
    blend = rng.beta(mixup, mixup, count) if mixup else np.ones(count)
    kept = rng.beta(cutmix, cutmix, count) if cutmix else np.ones(count)

    # As in the paper, a patch may extend over the edge; only its visible area counts.
    extent = np.array(size)
    half = np.sqrt(1 - kept)[:, None] * extent / 2
    center = rng.uniform(0, extent, (count, 2))
    low, high = np.rint(np.clip([center - half, center + half], 0, extent))
    patch = np.concatenate([low, high - low], axis=1) * patched[:, None]
    return rng.permutation(count), np.where(patched, 1.0, blend), patch


def own_share(blend: Array, patch: Array, size: tuple[int, int]) -> Array:
    """Return the share `(B,)` of its own pixels, and so of its own class, that each sample keeps."""
    return blend * (1 - patch[:, 2] * patch[:, 3] / (size[0] * size[1]))


def mix_images(images: Tensor, partner: Tensor, blend: Tensor, patch: Tensor | None) -> Tensor:
    """Combine images `(B, C, H, W)` with their partners; `patch` is None without CutMix."""
    weight = blend[:, None, None, None]
    if patch is not None:
        height, width = images.shape[-2:]
        weight = weight * ~box_mask(patch, (height, width))
    return torch.lerp(images[partner], images, weight)


def mix_targets(targets: Tensor, partner: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """Return soft targets `(B, num_classes)`, float32, from classes `(B,)` and the shares of `own_share`."""
    classes = torch.arange(num_classes, device=targets.device)
    one_hot = (targets[:, None] == classes).float()
    return torch.lerp(one_hot[partner], one_hot, share[:, None])
