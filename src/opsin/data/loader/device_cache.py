"""Device cache: small splits are uploaded to the accelerator once, and batches are gathered there."""

import math
from typing import Literal

import numpy as np
import torch

from opsin.data.device_copy import copy_to_device
from opsin.data.subset import Subset
from opsin.data.types import Indices
from opsin.errors import UserError

OnDevice = Literal["auto"] | bool

MEMORY_FRACTION = 0.25
"""Fraction of the free memory that a split may take; the rest is for the network and its activations."""

_UPLOADED_AT_ONCE = 2**26  # bytes


class DeviceSubset:
    """The pixels of a split in the memory of a device.

    Args:
        subset: The split.
        device: Device of the pixels.

    Attributes:
        pixels: uint8 ``(N, H, W, C)``, in the order of the split.

    Raises:
        UserError: The pixels do not fit.
    """

    def __init__(self, subset: Subset, device: torch.device) -> None:
        first = subset.read(np.arange(1))
        chunk = max(1, _UPLOADED_AT_ONCE // first.nbytes)
        try:
            self.pixels = torch.empty((len(subset), *first.shape[1:]), dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            raise UserError(
                f"datamodule.on_device=true: {len(subset) * first.nbytes / 1e9:.1f} GB of images do not fit on "
                f"{device}; set datamodule.on_device=auto, or a smaller datamodule.image_size"
            ) from None
        for start in range(0, len(subset), chunk):
            positions = np.arange(start, min(start + chunk, len(subset)))
            self.pixels[start : start + len(positions)] = torch.from_numpy(subset.read(positions)).to(device)

    def read(self, positions: Indices) -> torch.Tensor:
        """Return a new tensor ``(B, H, W, C)`` on the device, the pixels at some positions ``(B,)`` of the split."""
        return self.pixels.index_select(0, copy_to_device(torch.from_numpy(positions), self.pixels.device))


def cached_on_device(subset: Subset, device: torch.device, on_device: OnDevice) -> Subset | DeviceSubset:
    """Return a split in the memory of a device if it should be there, else the split itself.

    Args:
        subset: The split.
        device: Device of the network.
        on_device: `auto` uploads it to an accelerator if it takes at most `MEMORY_FRACTION` of the free memory and its
            images are not in shards.

    Raises:
        UserError: `on_device` is True and the split does not fit.
    """
    if on_device == "auto":
        on_device = all(store.random_access for store in subset.stores) and _bytes(
            subset
        ) <= MEMORY_FRACTION * free_bytes(device)
    return DeviceSubset(subset, device) if on_device else subset


def free_bytes(device: torch.device) -> int:
    """Return the free memory of an accelerator in bytes; 0 for the CPU and for devices that do not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return 0


def _bytes(subset: Subset) -> int:
    return math.prod(subset.stores[0].shape) * len(subset)
