"""Images from any dataset, decoded once, loaded in batches, augmented on the accelerator."""

from opsin.data.augmentation.augmentation import Augmentation
from opsin.data.datamodule import ImageDataModule
from opsin.data.loader.batch_loader import Batch

__all__ = ["Augmentation", "Batch", "ImageDataModule"]
