"""The resize of `fit_image` as tensor operations, bit for bit, so that an exported network contains it.

Pillow resizes 8-bit images in two passes, first along the width and then along the height. Each pass is a matrix
product with weights that are rounded to 22 binary digits, and rounds its result to 8 bits. In double precision, these
products are exact. The weights follow from the size of the image, so one graph resizes images of any size.

Images more than 100 times as tall as wide differ by up to one level: Pillow resizes their height first.
"""

from typing import Final

import torch
from torch import Tensor, nn

from opsin.data.fit import Interpolation, Resize
from opsin.errors import UserError

_ONE: Final = float(2**22)  # Pillow's fixed-point 1.0
_SUPPORT: Final[dict[Interpolation, float]] = {"bilinear": 1.0, "bicubic": 2.0}


class TensorResize(nn.Module):
    """Resize batches of images of one size.

    Args:
        size: Height and width of the result, in pixels.
        resize: See `Fit`.
        interpolation: Pillow's filter.

    Raises:
        UserError: The combination cannot be expressed.
    """

    def __init__(self, size: tuple[int, int], resize: Resize, interpolation: Interpolation) -> None:
        super().__init__()
        if interpolation == "nearest" and resize != "squash":
            raise UserError(
                f"datamodule.interpolation=nearest with datamodule.resize={resize} cannot be exported with its "
                "preprocessing; export the weights with --format safetensors"
            )
        self.size = size
        self.resize = resize
        self.interpolation = interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Return images `(N, C, height, width)` of whole numbers in 0..255, float64.

        Args:
            images: Whole numbers in 0..255, float64 `(N, C, H, W)`.
        """
        rows, columns = (_positions(images.shape[axis], images.device) for axis in (2, 3))
        inner, offsets = self._layout(rows[-1] + 1, columns[-1] + 1)
        across = self._weights(columns, self.size[1], inner[1], offsets[1])
        down = self._weights(rows, self.size[0], inner[0], offsets[0])
        return _rounded(down @ _rounded(images @ across.T))

    def _layout(self, height: Tensor, width: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the size of the resized image, and the position of the result in it."""
        target = [torch.full_like(height, float(side)) for side in self.size]
        if self.resize == "squash":
            zero = torch.zeros_like(height)
            return (target[0], target[1]), (zero, zero)
        scaled = torch.floor(height * target[1] / width), torch.floor(width * target[0] / height)
        choose = torch.maximum if self.resize == "crop" else torch.minimum
        inner = [choose(torch.clamp(scaled[axis], min=1.0), target[axis]) for axis in (0, 1)]
        offsets = [torch.round((inner[axis] - target[axis]) / 2.0) for axis in (0, 1)]
        return (inner[0], inner[1]), (offsets[0], offsets[1])

    def _weights(self, pixels: Tensor, count: int, inner: Tensor, offset: Tensor) -> Tensor:
        """Return the weight of each pixel of a row of the image for each pixel of a row of the result.

        Args:
            pixels: Numbers of the pixels in the row of the image `(P,)`.
            count: Number of pixels in the row of the result.
            inner: Number of pixels in the row of the resized image, which the result is a part of.
            offset: Number of its first pixel in the row of the resized image; negative if there is a border.

        Returns:
            Whole numbers `(count, P)`; a row sums to about `_ONE`, or to 0 in a border.
        """
        target = _positions(count, pixels.device) + offset
        scale = (pixels[-1] + 1) / inner
        if self.interpolation == "nearest":  # Pillow adds the scale up, and its rounding errors count
            nearest = torch.cumsum(torch.where(target == 0, scale * 0.5, scale), dim=0)
            return (pixels == torch.floor(nearest)[:, None]).double() * _ONE
        weights = _filter(self.interpolation, pixels, target, scale)
        inside = (target >= 0) & (target < inner)
        return torch.where(inside[:, None], weights, 0.0)


def _filter(interpolation: Interpolation, pixels: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Return Pillow's weights `(count, P)` of a filter that is widened when the image shrinks."""
    widened = torch.clamp(scale, min=1.0)
    support = _SUPPORT[interpolation] * widened
    center = (target + 0.5) * scale
    first = torch.clamp(torch.floor(center - support + 0.5), min=0.0)
    last = torch.minimum(torch.floor(center + support + 0.5), pixels[-1] + 1)
    distance = torch.abs(((pixels - center[:, None]) + 0.5) * (1.0 / widened))
    if interpolation == "bilinear":
        weights = torch.clamp(1.0 - distance, min=0.0)
    else:  # Keys 1981 with a = -0.5
        near = (1.5 * distance - 2.5) * distance * distance + 1.0
        far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
        weights = torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))
    weights = torch.where((pixels >= first[:, None]) & (pixels < last[:, None]), weights, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    weights = weights / torch.where(total == 0, 1.0, total) * _ONE
    return torch.where(weights < 0, torch.ceil(weights - 0.5), torch.floor(weights + 0.5))


def _positions(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.float64, device=device)


def _rounded(products: Tensor) -> Tensor:
    return torch.clamp(torch.floor((products + _ONE / 2) / _ONE), 0.0, 255.0)
