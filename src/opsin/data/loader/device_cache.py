"""Small splits that live on the accelerator: uploaded once, and gathered there, so that only positions cross."""

import math
from typing import Literal

import numpy as np
import torch

from opsin.data.stratify import Indices
from opsin.data.subset import Subset
from opsin.errors import UserError

OnDevice = Literal["auto"] | bool

SHARE = 0.25
"""Of the free memory that a split may take: the rest is for the network and what a step keeps."""

_UPLOADED_AT_ONCE = 2**26  # bytes


class DeviceSubset:
    """The pixels of a split in the memory of a device.

    Args:
        part: The split.
        device: Where its pixels go.

    Attributes:
        pixels: uint8 ``(N, H, W, C)``, in the order of the split.

    Raises:
        UserError: They do not fit.
    """

    def __init__(self, part: Subset, device: torch.device) -> None:
        first = part.read(np.arange(1))
        chunk = max(1, _UPLOADED_AT_ONCE // first.nbytes)
        try:
            self.pixels = torch.empty((len(part), *first.shape[1:]), dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            raise UserError(
                f"datamodule.on_device=true: {len(part) * first.nbytes / 1e9:.1f} GB of images do not fit on {device}; "
                "leave it at auto, or take a smaller datamodule.image_size"
            ) from None
        for start in range(0, len(part), chunk):
            positions = np.arange(start, min(start + chunk, len(part)))
            self.pixels[start : start + len(positions)] = torch.from_numpy(part.read(positions)).to(device)

    def read(self, positions: Indices) -> torch.Tensor:
        """A new tensor ``(B, H, W, C)`` on the device, of the pixels at some positions ``(B,)`` of the split."""
        index = torch.from_numpy(positions)
        if self.pixels.device.type == "cuda":  # the copy from pinned memory waits for nothing
            index = index.pin_memory().to(self.pixels.device, non_blocking=True)
        else:
            index = index.to(self.pixels.device)
        return self.pixels.index_select(0, index)


def serve(part: Subset, device: torch.device, on_device: OnDevice) -> Subset | DeviceSubset:
    """The split as it is, or on the device.

    Args:
        part: The split.
        device: Where the network runs.
        on_device: `auto` keeps it on an accelerator where it takes at most `SHARE` of the free memory and its images
            are at hand.

    Raises:
        UserError: It must be there and does not fit.
    """
    if on_device == "auto":
        on_device = all(store.at_hand for store in part.stores) and _bytes(part) <= SHARE * free_bytes(device)
    return DeviceSubset(part, device) if on_device else part


def free_bytes(device: torch.device) -> int:
    """Memory that an accelerator has left; 0 for the CPU, and where it cannot be asked."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


def _bytes(part: Subset) -> int:
    return math.prod(part.stores[0].shape) * len(part)
