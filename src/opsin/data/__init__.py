"""Images from any dataset, decoded once, loaded in batches, augmented on the accelerator."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsin.data.augmentation.augmentation import Augmentation
    from opsin.data.datamodule import ImageDataModule
    from opsin.data.loader.batch_loader import Batch
    from opsin.data.options import DataOptions

__all__ = ["Augmentation", "Batch", "DataOptions", "ImageDataModule"]

_HOMES = {
    "Augmentation": "opsin.data.augmentation.augmentation",
    "Batch": "opsin.data.loader.batch_loader",
    "DataOptions": "opsin.data.options",
    "ImageDataModule": "opsin.data.datamodule",
}
"""The module of each name, imported at its first use: the datamodule loads Lightning, which predictions do not need."""

if not TYPE_CHECKING:  # otherwise a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a name at its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
