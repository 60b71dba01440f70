"""Images from any dataset, decoded once, loaded in batches, augmented on the accelerator."""

from opsin.data.augmentation.augmentation import Augmentation
from opsin.data.datamodule import ImageDataModule
from opsin.data.loader.batch_loader import Batch
from opsin.data.options import DataOptions

__all__ = ["Augmentation", "Batch", "DataOptions", "ImageDataModule"]
