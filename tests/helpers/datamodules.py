"""A datamodule from keyword arguments, as tests vary one option at a time."""

from typing import Any

from torch import nn

from opsin.data import DataOptions, ImageDataModule
from opsin.data.datasets import Source


def image_data(
    source: Source, *, augmentation: nn.Module | None = None, seed: int = 0, channels: int | None = None, **options: Any
) -> ImageDataModule:
    """Return the datamodule of a dataset; `options` are fields of `DataOptions`."""
    return ImageDataModule(source, DataOptions(**options), augmentation=augmentation, seed=seed, channels=channels)
