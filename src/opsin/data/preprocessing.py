"""The one evaluation transform, in two steps: resized on the CPU, normalized in batches on the device.

Validation, test and prediction use these two steps and no other.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from opsin.data.decode import BadImage

Resize = Literal["squash", "crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

_MAX_COVERING = 2**26
"""Maximum number of pixels to which `resize=crop` enlarges an image before it crops it."""


def fit_image(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    """Resize one image; an image that has the size is returned unchanged.

    Resampling is Pillow's, which antialiases when it shrinks (except with `nearest`).

    Args:
        image: Pixels ``(H, W, C)``, uint8.
        size: Height and width of the result, in pixels.
        resize: `squash` stretches to the size. `crop` keeps the aspect ratio, covers the size and crops the center,
            as torchvision's Resize and CenterCrop do. `letterbox` keeps the aspect ratio, fits inside the size and
            is centered on black.
        interpolation: Pillow's filter.

    Returns:
        Pixels ``(height, width, C)``, uint8.

    Raises:
        BadImage: `crop` would enlarge an extremely long image to more than 67 million pixels.
    """
    if image.shape[:2] == size:
        return image
    if image.shape[2] not in (1, 3):  # Pillow would take the last of two or four channels for alpha
        bands = [fit_image(band, size, resize, interpolation) for band in np.split(image, image.shape[2], axis=2)]
        return np.concatenate(bands, axis=2)
    height, width = size
    pillow = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    inner = size if resize == "squash" else _keep_aspect(image.shape[:2], size, cover=resize == "crop")
    if inner[0] * inner[1] > max(_MAX_COVERING, 4 * height * width):
        raise BadImage(f"{image.shape[1]} x {image.shape[0]} pixels are too long and narrow for resize=crop")
    fitted = np.asarray(pillow.resize((inner[1], inner[0]), _RESAMPLING[interpolation]))
    fitted = fitted.reshape(*inner, image.shape[2])
    if inner == size:
        return fitted
    # Rounded like torchvision's CenterCrop; negative if there is a border to fill.
    top, left = round((inner[0] - height) / 2.0), round((inner[1] - width) / 2.0)
    if resize == "crop":
        return fitted[top : top + height, left : left + width]
    boxed = np.zeros((height, width, image.shape[2]), np.uint8)
    boxed[-top : inner[0] - top, -left : inner[1] - left] = fitted
    return boxed


def _keep_aspect(shape: tuple[int, ...], size: tuple[int, int], *, cover: bool) -> tuple[int, int]:
    """Return the size that covers `size`, or fits inside it, with the aspect ratio of `shape`."""
    full_height = max(1, shape[0] * size[1] // shape[1])  # at the full width
    full_width = max(1, shape[1] * size[0] // shape[0])  # at the full height
    if (full_height >= size[0]) == cover:
        return full_height, size[1]
    return size[0], full_width


class Preprocess:
    """Normalize batches of pixels on their device.

    Args:
        mean: Mean per channel of pixels scaled to [0, 1], or one number for all channels.
        std: Standard deviation, like `mean`.
        channels: Channels of the network's input; a gray image is repeated.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> None:
        self.channels = channels
        self.mean = mean if len(mean) == channels else mean * channels
        self.std = std if len(std) == channels else std * channels
        self._constants: dict[tuple[float, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Convert pixels ``(B, C, H, W)``, uint8, to the network's input: float32, channels last in memory."""
        return self._affine(self._float(images), 255.0)

    def to_unit_range(self, images: torch.Tensor) -> torch.Tensor:
        """Convert pixels ``(B, C, H, W)``, uint8, to [0, 1] and the network's channels, as augmentations expect."""
        return self._float(images).div_(255.0)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images in [0, 1] to the network's input, in place."""
        return self._affine(images, 1.0)

    def constants(self, white: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return shift and scale per channel ``(C,)``: the network's input is pixel * scale + shift.

        Args:
            white: The largest value of a pixel.
        """
        mean, std = torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)
        return (-mean / std).float(), (1 / (std * white)).float()

    def _float(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1)
        return images.to(torch.float32, memory_format=torch.channels_last)

    def _affine(self, images: torch.Tensor, white: float) -> torch.Tensor:
        key = (white, images.shape[3], images.device)
        if key not in self._constants:
            self._constants[key] = self._row(*key)
        shift, scale = self._constants[key]
        return torch.addcmul(shift, images, scale, out=images)

    def _row(self, white: float, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        # One whole row ``(1, C, 1, W)`` each, in the memory format of the images: with one constant per channel, the
        # innermost loop would run over 3 numbers, fifteen times slower on a CPU.
        pair = torch.stack(self.constants(white)).view(2, -1, 1, 1).expand(2, -1, 1, width)
        pair = pair.contiguous(memory_format=torch.channels_last).to(device)
        return pair[:1], pair[1:]
