"""Images from any source, decoded once, served in whole batches, augmented on the accelerator."""

from opsin.data.augment import Augmentation
from opsin.data.batches import Batch
from opsin.data.datamodule import ImageDataModule

__all__ = ["Augmentation", "Batch", "ImageDataModule"]
