"""Geometry of a batch: boxes, and one affine resampling in which every sample has its own matrix.

Positions are in pixels from the center of the image, x to the right and y down; the position of a pixel is its
center. This is the convention of `grid_sample(align_corners=False)` and of torchvision's `affine`.
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Array = npt.NDArray[np.float64]
Fill = Literal["zeros", "border", "reflection"]
ResampleMode = Literal["bilinear", "nearest"]

ERASING_AREA = (0.02, 0.33)  # torchvision's RandomErasing, after Zhong et al., 2020
ERASING_RATIO = (0.3, 3.3)
ATTEMPTS = 10  # torchvision's number of tries to find a box that fits


def draw_boxes(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Draw boxes as torchvision's `RandomResizedCrop` and `RandomErasing` do.

    The area is uniform, the ratio of width to height log-uniform, the position uniform; a box that does not
    fit into the image is drawn again, up to `ATTEMPTS` times.

    Args:
        rng: Source of the random numbers.
        count: Number of boxes B.
        size: Height and width of the image, in pixels.
        area: Lowest and highest area, as a fraction of the area of the image.
        ratio: Lowest and highest width / height.

    Returns:
        Boxes `(B, 4)`: top, left, height, width in whole pixels; and `(B,)`: whether each fits. The other
        boxes are invalid.
    """
    height, width = size
    areas = height * width * rng.uniform(*area, (count, ATTEMPTS))
    ratios = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (count, ATTEMPTS)))
    position = rng.random((2, count))

    heights, widths = np.rint(np.sqrt(areas / ratios)), np.rint(np.sqrt(areas * ratios))
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = np.arange(count), fits.argmax(axis=1)
    heights, widths = heights[first], widths[first]
    tops = np.floor(position[0] * (height - heights + 1))
    lefts = np.floor(position[1] * (width - widths + 1))
    return np.stack([tops, lefts, heights, widths], axis=1), fits[first]


def draw_crops(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    area: tuple[float, float] | None,
    ratio: tuple[float, float],
) -> Array:
    """Draw the boxes `(B, 4)` of a resized crop; the whole image if `area` is None.

    If no drawn box fits, it is the largest centered one with an allowed ratio, as in torchvision.
    """
    height, width = size
    if area is None:
        return np.tile((0.0, 0.0, height, width), (count, 1))
    boxes, fit = draw_boxes(rng, count, size, area, ratio)
    tallest, widest = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    boxes[~fit] = (height - tallest) // 2, (width - widest) // 2, tallest, widest
    return boxes


def draw_erased(rng: np.random.Generator, count: int, size: tuple[int, int], probability: float) -> Array:
    """Draw the boxes `(B, 4)` to erase; an empty box erases nothing."""
    if not probability:
        return np.zeros((count, 4))
    boxes, fit = draw_boxes(rng, count, size, ERASING_AREA, ERASING_RATIO)
    boxes[~fit | (rng.random(count) >= probability)] = 0
    return boxes


def sampling_matrices(
    size: tuple[int, int],
    *,
    angle: Array,
    shear: Array,
    scale: Array,
    translation: Array,
    crop: Array,
    flip: Array,
) -> Array:
    """Compose the geometry of each sample into a matrix from output to input positions.

    The image is sheared, scaled, rotated and shifted (torchvision's `affine`), the box `crop` is stretched
    over the whole image, and the result is flipped.

    Args:
        size: Height and width of the images, in pixels.
        angle: Rotation `(B,)`, degrees clockwise.
        shear: Shear along x `(B,)`, degrees.
        scale: Magnification `(B,)`.
        translation: Shift `(B, 2)` along x and y, pixels.
        crop: Box `(B, 4)`: top, left, height, width in pixels; it may reach beyond the image.
        flip: `(B, 2)` along x and y: -1 where the sample is flipped, else 1.

    Returns:
        Matrices `(B, 2, 3)` from normalized output to normalized input positions, as for `affine_grid`.
    """
    extent = np.array([size[1], size[0]], dtype=np.float64)
    cos, sin, tan = np.cos(np.radians(angle)), np.sin(np.radians(angle)), np.tan(np.radians(shear))
    inverse = np.array([[cos - tan * sin, sin + tan * cos], [-sin, cos]]) / scale  # inverse map, (2, 2, B)
    inverse = inverse.transpose(2, 0, 1)

    corner, box = crop[:, [1, 0]], crop[:, [3, 2]]
    offset = corner + (box - extent) / 2 - translation
    linear = inverse * (flip * box / extent)[:, None, :]
    offset = np.einsum("bij,bj->bi", inverse, offset)
    return np.concatenate([linear * extent / extent[:, None], (2 * offset / extent)[:, :, None]], axis=2)


def resample(images: Tensor, matrices: Tensor, interpolation: ResampleMode, fill: Fill) -> Tensor:
    """Resample images `(B, C, H, W)` once, each by its own matrix of `(B, 2, 3)`.

    Pixels outside the image are `fill`: black, the nearest pixel of the border, or the image mirrored at its edge.
    With `nearest`, matrices that flip and shift by whole pixels move pixels without changing a value.
    """
    height, width = images.shape[-2:]
    # The sum of a row and a column, in planes of x and y: on a CPU ten times faster than `affine_grid`,
    # which multiplies a matrix for every pixel.
    x = (2 * torch.arange(width, device=images.device) + 1) / width - 1
    y = (2 * torch.arange(height, device=images.device) + 1) / height - 1
    along_x, along_y, offset = matrices[:, :, None, None].unbind(dim=-1)
    planes = (along_y * y[:, None] + offset) + along_x * x
    grid = planes.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode=interpolation, padding_mode=fill, align_corners=False)


def box_mask(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mask `(B, 1, H, W)` of the pixels in the boxes `(B, 4)`: top, left, height, width."""
    height, width = size
    top, left, box_height, box_width = boxes[:, :, None].unbind(dim=1)
    y = torch.arange(height, device=boxes.device)
    x = torch.arange(width, device=boxes.device)
    rows = (y >= top) & (y < top + box_height)
    columns = (x >= left) & (x < left + box_width)
    return rows[:, None, :, None] & columns[:, None, None, :]
