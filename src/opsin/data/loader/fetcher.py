"""Fetch batches: positions in a split become pixels or cached features, from the disk or the device."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.device_copy import copy_to_device
from opsin.data.loader.batch_loader import Batch
from opsin.data.loader.device_cache import DeviceSubset, OnDevice, cached_on_device
from opsin.data.subset import Subset
from opsin.data.types import Indices, Split


class BatchFetcher:
    """Fetches the batches of all splits.

    Args:
        on_device: Whether the pixels of a split are cached on the accelerator, see `cached_on_device`.

    Attributes:
        features: Cached features that replace the pixels, by split.
        features_of: Step of the network whose output the features are.
        teacher_outputs: Outputs of a teacher for the images, by split.
    """

    def __init__(self, on_device: OnDevice) -> None:
        self.features: Mapping[Split, FeatureSubset] = {}
        self.features_of: str | None = None
        self.teacher_outputs: Mapping[Split, FeatureSubset] = {}
        self._on_device = on_device
        self._device_cache: dict[Split, Subset | DeviceSubset] = {}

    def without_device_cache(self) -> Self:
        """Return a copy that holds no images on a device."""
        other = copy.copy(self)
        other._device_cache = {}
        return other

    def reads_images(self, split: Split) -> bool:
        """Return whether the next batch of a split needs its images, and not only copies or features of them."""
        return split not in self.features and not isinstance(self._device_cache.get(split), DeviceSubset)

    def fetch(
        self,
        split: Split,
        subset: Subset,
        targets: Indices,
        device: Callable[[], torch.device],
        positions: Indices,
        key: int,
        epoch: int,
    ) -> Batch:
        """Return the batch at some positions of a split: pixels or cached features, and teacher outputs.

        Args:
            split: Name of the split.
            subset: Images of the split.
            targets: Class indices ``(N,)`` of the split.
            device: Returns the device of the network; called with the first batch.
            positions: Positions ``(B,)`` of the images.
            key: Key of the batch.
            epoch: Number of the epoch, which selects the view of cached features.
        """
        features, outputs = self.features.get(split), self.teacher_outputs.get(split)
        if features is None and split not in self._device_cache:
            self._device_cache[split] = cached_on_device(subset, device(), self._on_device)
        rows = self._device_cache[split].read(positions) if features is None else features.read(positions, epoch)
        images = torch.as_tensor(rows)
        return Batch(
            images.permute(0, 3, 1, 2) if images.ndim == 4 else images,
            torch.from_numpy(targets[positions]),
            torch.from_numpy(positions),
            key,
            features_of=None if features is None else self.features_of,
            teacher_outputs=None if outputs is None else torch.from_numpy(outputs.read(positions, epoch)),
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move pixels (as bytes), targets and teacher outputs to a device; `positions` stay on the CPU."""
    if device.type == "cpu":
        return batch
    moved: dict[str, Any] = {}
    for name in ("images", "targets", "teacher_outputs"):
        tensor = getattr(batch, name)
        if tensor is not None and tensor.device != device:
            moved[name] = copy_to_device(tensor, device)
    return batch._replace(**moved)
