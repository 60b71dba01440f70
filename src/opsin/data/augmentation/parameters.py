"""The random numbers of one augmented batch, and the form in which its device gets them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from opsin.data.augmentation.color import colour_matrices
from opsin.data.augmentation.geometry import Array, sampling_matrices
from opsin.data.augmentation.mixup_cutmix import own_share


class DeviceDraw(NamedTuple):
    """A draw on the device of the images, float32 unless said, one row for each of B samples."""

    sampling: Tensor  # (B, 2, 3) see `sampling_matrices`
    colour: Tensor  # (B, C, C) see `colour_matrices`
    mean_weights: Tensor  # (B, C) likewise
    erased: Tensor  # (B, 4) box
    partner: Tensor  # (B,) int64
    blend: Tensor  # (B,)
    patch: Tensor  # (B, 4) box
    share: Tensor  # (B,) see `own_share`


@dataclass(frozen=True)
class AugmentationParams:
    """What was drawn for each of B samples; an operation that is off has its neutral value.

    Boxes `(B, 4)` are top, left, height, width in whole pixels; an empty one has height and width 0.
    """

    angle: Array  # (B,) degrees clockwise
    shear: Array  # (B,) degrees along x
    scale: Array  # (B,) magnification
    translation: Array  # (B, 2) along x and y, whole pixels
    crop: Array  # (B, 4) box stretched over the image; reaches beyond it where crop_padding moved it
    flip: Array  # (B, 2) along x and y: -1 flipped, 1 not
    brightness: Array  # (B,) factor, as the next two
    contrast: Array
    saturation: Array
    erased: Array  # (B, 4) box made black
    partner: npt.NDArray[np.int64]  # (B,) place in the batch of the sample mixed in
    blend: Array  # (B,) share of the sample's own pixels outside `patch` (Mixup)
    patch: Array  # (B, 4) box taken from the partner (CutMix)

    def to(self, device: torch.device, channels: int, size: tuple[int, int]) -> DeviceDraw:
        """Works out the matrices for images of `channels` and `size`, and moves everything in one transfer."""
        sampling = sampling_matrices(
            size,
            angle=self.angle,
            shear=self.shear,
            scale=self.scale,
            translation=self.translation,
            crop=self.crop,
            flip=self.flip,
        )
        colour, mean_weights = colour_matrices(
            channels, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation
        )
        share = own_share(self.blend, self.patch, size)
        parts = (sampling, colour, mean_weights, self.erased, self.partner, self.blend, self.patch, share)
        rows = [part.reshape(len(self.angle), -1) for part in parts]

        packed = torch.from_numpy(np.concatenate(rows, axis=1, dtype=np.float32))
        # Does not wait for what is queued on a CUDA device; elsewhere a copy that returns early is not safe.
        moved = packed.to(device, non_blocking=device.type == "cuda")
        columns = torch.split(moved, [row.shape[1] for row in rows], dim=1)
        tensors = [column.view(part.shape) for column, part in zip(columns, parts, strict=True)]
        draw = DeviceDraw(*tensors)
        return draw._replace(partner=draw.partner.long())
