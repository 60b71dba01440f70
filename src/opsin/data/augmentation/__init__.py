"""Batched augmentation on the device."""

from opsin.data.augmentation.augmentation import Augmentation

__all__ = ["Augmentation"]
