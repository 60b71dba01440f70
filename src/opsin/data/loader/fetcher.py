"""From positions in a split to a batch on its device: pixels or cached features, from wherever they are held."""

import copy
from collections.abc import Callable, Mapping
from typing import Self

import torch

from opsin.data.cache.feature_store import FeaturePart
from opsin.data.loader.batch_loader import Batch
from opsin.data.loader.device_cache import DeviceSubset, OnDevice, serve
from opsin.data.source import Split
from opsin.data.stratify import Indices
from opsin.data.subset import Subset


class BatchFetcher:
    """What stands between the images of all splits and their batches.

    Args:
        on_device: Whether the pixels of a split are kept on the accelerator, see `serve`.

    Attributes:
        features: Of each split that is served so, the cached features in place of the pixels.
        after: The step of the network whose output they are.
        teaching: Of each split that has a teacher, what it makes of the images.
    """

    def __init__(self, on_device: OnDevice) -> None:
        self.features: Mapping[Split, FeaturePart] = {}
        self.after: str | None = None
        self.teaching: Mapping[Split, FeaturePart] = {}
        self._on_device = on_device
        self._held: dict[Split, Subset | DeviceSubset] = {}

    def holding_nothing(self) -> Self:
        """The same, with no images on a device yet."""
        other = copy.copy(self)
        other._held = {}
        return other

    def fetch(
        self,
        split: Split,
        part: Subset,
        targets: Indices,
        device: Callable[[], torch.device],
        positions: Indices,
        key: int,
    ) -> Batch:
        """The pixels or the cached features at some positions of a split, and what its teacher makes of them.

        Args:
            split: Which.
            part: Its images.
            targets: Their classes ``(N,)``.
            device: Tells where the network runs, once there is a trainer.
            positions: Which images ``(B,)``.
            key: Of the batch.
        """
        cached, taught = self.features.get(split), self.teaching.get(split)
        if cached is None and split not in self._held:
            self._held[split] = serve(part, device(), self._on_device)
        rows = self._held[split].read(positions) if cached is None else cached.read(positions, key)
        images = torch.as_tensor(rows)
        return Batch(
            images.permute(0, 3, 1, 2) if images.ndim == 4 else images,
            torch.from_numpy(targets[positions]),
            torch.from_numpy(positions),
            key,
            after=None if cached is None else self.after,
            taught=None if taught is None else torch.from_numpy(taught.read(positions, key)),
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move the pixels as bytes, and the targets; `positions` stay."""
    if device.type == "cpu":
        return batch
    moved = {}
    for name in ("images", "targets", "taught"):
        tensor = getattr(batch, name)
        if tensor is not None and tensor.device != device:
            cuda = device.type == "cuda"  # the copy from pinned memory does not wait for the step before
            moved[name] = (tensor.pin_memory() if cuda else tensor).to(device, non_blocking=cuda)
    return batch._replace(**moved)
