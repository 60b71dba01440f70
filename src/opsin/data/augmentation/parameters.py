"""The random parameters of one augmented batch, as drawn and as sent to its device."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opsin.data.augmentation.color import color_matrices
from opsin.data.augmentation.geometry import Array, sampling_matrices
from opsin.data.augmentation.mixup_cutmix import own_share
from opsin.data.device_copy import copy_to_device


class DeviceParams(NamedTuple):
    """Parameters on the device of the images, float32 unless stated, one row for each of B samples."""

    sampling: Tensor  # (B, 2, 3) see `sampling_matrices`
    color: Tensor  # (B, C, C) see `color_matrices`
    mean_weights: Tensor  # (B, C) see `color_matrices`
    erased: Tensor  # (B, 4) box
    partner: Tensor  # (B,) int64
    blend: Tensor  # (B,)
    patch: Tensor  # (B, 4) box
    share: Tensor  # (B,) see `own_share`


@dataclass(frozen=True)
class AugmentationParams:
    """The parameters of each of B samples; a disabled operation has its neutral value.

    Boxes `(B, 4)` are top, left, height, width in whole pixels; an empty one has height and width 0.
    """

    angle: Array  # (B,) degrees clockwise
    shear: Array  # (B,) degrees along x
    scale: Array  # (B,) magnification
    translation: Array  # (B, 2) along x and y, whole pixels
    crop: Array  # (B, 4) box stretched over the image; reaches beyond it where crop_padding moved it
    flip: Array  # (B, 2) along x and y: -1 flipped, 1 not
    brightness: Array  # (B,) factor, like the next two
    contrast: Array
    saturation: Array
    erased: Array  # (B, 4) box made black
    partner: npt.NDArray[np.int64]  # (B,) position in the batch of the sample mixed in
    blend: Array  # (B,) share of the sample's own pixels outside `patch` (Mixup)
    patch: Array  # (B, 4) box taken from the partner (CutMix)

    def to(self, device: torch.device, channels: int, size: tuple[int, int]) -> DeviceParams:
        """Compute the matrices for images of `channels` and `size`, and move everything in one transfer."""
        sampling = sampling_matrices(
            size,
            angle=self.angle,
            shear=self.shear,
            scale=self.scale,
            translation=self.translation,
            crop=self.crop,
            flip=self.flip,
        )
        color, mean_weights = color_matrices(
            channels, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation
        )
        share = own_share(self.blend, self.patch, size)
        parts = (sampling, color, mean_weights, self.erased, self.partner, self.blend, self.patch, share)
        rows = [part.reshape(len(self.angle), -1) for part in parts]

        packed = torch.from_numpy(np.concatenate(rows, axis=1, dtype=np.float32))
        moved = copy_to_device(packed, device)
        columns = torch.split(moved, [row.shape[1] for row in rows], dim=1)
        tensors = [column.view(part.shape) for column, part in zip(columns, parts, strict=True)]
        params = DeviceParams(*tensors)
        return params._replace(partner=params.partner.long())
