"""Transforms of single images, such as those of `torchvision.transforms.v2`, as augmentation of batches."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opsin.errors import UserError

TRIALS = 8
"""Number of images on which a transform is tried before a run: it may be random."""


class ImageTransform(nn.Module):
    """Apply a transform to each image of a batch separately, with its own random numbers.

    A transform of torchvision draws its parameters once per call, so a call for the whole batch would treat all images
    alike. The random numbers depend on the key of the batch only. In `eval()` mode nothing changes.

    Args:
        transform: Function from an image `(C, H, W)`, uint8, to an image of the same shape: uint8, or float in [0, 1].
    """

    def __init__(self, transform: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.transform = transform

    def __repr__(self) -> str:
        """Return one line with the transform and its parameters."""
        return " ".join(repr(self.transform).split())

    @torch.no_grad()
    def forward(self, images: Tensor, targets: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Return the transformed images and the unchanged targets.

        Args:
            images: `(B, C, H, W)`, float32 in [0, 1]; made of uint8 pixels.
            targets: `(B,)`.
            key: Seed of this batch, not negative.

        Raises:
            UserError: The transform returns something other than an image of the same shape.
        """
        if not self.training:
            return images, targets
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        pixels = (images * 255).round().to(torch.uint8).contiguous()
        with _seeded(key, images.device):
            changed = torch.stack([self._changed(image) for image in pixels])
        return changed.contiguous(memory_format=torch.channels_last) if channels_last else changed, targets

    def check(self, channels: int, image_size: tuple[int, int]) -> None:
        """Check on random images that the transform can be used as augmentation.

        Args:
            channels: Channels of the images.
            image_size: (height, width) of the images, in pixels.

        Raises:
            UserError: The transform fails, needs labels, changes the size or normalizes.
        """
        rng = np.random.default_rng(0)
        with _seeded(0, torch.device("cpu")):
            for _ in range(TRIALS):
                image = torch.from_numpy(rng.integers(0, 256, (channels, *image_size), np.uint8))
                low, high = torch.aminmax(self._changed(image))
                if low < -1e-3 or high > 1 + 1e-3:
                    raise UserError(
                        f"augmentation: {self} returns values from {low:.2f} to {high:.2f}, outside [0, 1]: leave out "
                        "Normalize, because Opsin normalizes after the augmentation"
                    )

    def _changed(self, image: Tensor) -> Tensor:
        try:
            changed = self.transform(image)
        except Exception as error:  # the user's code runs here and may raise anything
            raise UserError(
                f"augmentation: {self} fails on an image of shape {_shape(image)}: {type(error).__name__}: {error}. An "
                "augmentation gets one uint8 image (C, H, W) and no label; to mix images and their labels, use "
                "augmentation=mixup_cutmix"
            ) from error
        if not isinstance(changed, Tensor):
            raise UserError(
                f"augmentation: {self} returns {type(changed).__name__}, not a tensor: leave out ToPILImage"
            )
        if changed.shape != image.shape:
            raise UserError(
                f"augmentation: {self} changes the shape of an image from {_shape(image)} to {_shape(changed)}. All "
                "images keep their size: set datamodule.image_size instead, or crop to that size (RandomResizedCrop)"
            )
        if changed.dtype == torch.uint8:
            return changed.as_subclass(Tensor).float() / 255
        if not changed.is_floating_point():
            raise UserError(f"augmentation: {self} returns {changed.dtype}, not uint8 or a floating-point type")
        return changed.as_subclass(Tensor).float()


def as_augmentation(built: Any) -> nn.Module:
    """Return an augmentation of batches: a module that takes `(images, targets, key)`, or an adapted transform.

    Args:
        built: The augmentation of a config; a transform of one image is wrapped.

    Raises:
        UserError: It is neither.
    """
    if not callable(built):
        raise UserError(f"augmentation: {type(built).__name__} is not a function from an image to an image")
    if isinstance(built, nn.Module):
        parameters = inspect.signature(built.forward).parameters.values()
        if (
            sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
            == 3
        ):
            return built
    return ImageTransform(built)


@contextmanager
def _seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed the global random generators, which transforms use; they are restored afterwards."""
    seed = int(np.random.default_rng((key, 1)).integers(2**32))  # not the seed of dropout, which is the key itself
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - a transform may use it
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _shape(image: Tensor) -> str:
    return "x".join(map(str, image.shape))
