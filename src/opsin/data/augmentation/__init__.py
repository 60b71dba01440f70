"""Batched augmentation on the device."""
