"""Resize images to the size of training; decode large JPEGs at a reduced scale, because they are resized anyway."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from opsin.data.orientation import turn_of, turned_box, turned_size
from opsin.data.types import BadImage

Resize = Literal["squash", "crop", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

_MAX_COVERING = 2**26
"""Maximum number of pixels to which `resize=crop` enlarges an image before it crops it."""

_GAP = 2
"""A reduced JPEG is at least this many times as high and wide as the size that it is resized to."""


class Fit(NamedTuple):
    """How images are brought to one size.

    Attributes:
        size: Height and width of the result, in pixels.
        resize: `squash` stretches to the size. `crop` keeps the aspect ratio, covers the size and crops the center,
            as torchvision's Resize and CenterCrop do. `letterbox` keeps the aspect ratio, fits inside the size and
            is centered on black.
        interpolation: Pillow's filter, which antialiases when it shrinks (except `nearest`).
    """

    size: tuple[int, int]
    resize: Resize = "squash"
    interpolation: Interpolation = "bilinear"

    def resized(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width to which an image is resized, before it is cropped or gets a border.

        Args:
            shape: Height and width of the image.

        Raises:
            BadImage: `crop` would enlarge an extremely long image to more than 67 million pixels.
        """
        if self.resize == "squash":
            return self.size
        (height, width), cover = self.size, self.resize == "crop"
        full_height = max(1, shape[0] * width // shape[1])  # at the full width
        full_width = max(1, shape[1] * height // shape[0])  # at the full height
        found = (full_height, width) if (full_height >= height) == cover else (height, full_width)
        if found[0] * found[1] > max(_MAX_COVERING, 4 * height * width):
            raise BadImage(f"{shape[1]} x {shape[0]} pixels are too long and narrow for resize=crop")
        return found


class Reduction(NamedTuple):
    """A JPEG that is decoded at a reduced scale, as it is after it was turned upright.

    Attributes:
        shape: Height and width of the image at full scale.
        box: Left, top, right and bottom edge of the image within the reduced pixels. They are no whole numbers if the
            scale does not divide the size of the image.
    """

    shape: tuple[int, int]
    box: tuple[float, float, float, float]


def reduce_jpeg(image: Image.Image, fit: Fit) -> Reduction | None:
    """Set the scale (1/2, 1/4 or 1/8) at which a large JPEG is decoded; other images are not changed.

    It is the smallest scale at which the image is still at least twice as high and wide as what it is resized to. The
    decoder computes only that part of the frequencies of each block, which saves most of its work. On photographs, the
    pixels differ by 0.2 of 255 on average after the resize. With `nearest`, no image is reduced, because its pixels
    must not be averaged.

    Args:
        image: The image, of which only the header has been read.
        fit: The size that it is resized to.

    Returns:
        The reduction, None if the image is not reduced.

    Raises:
        BadImage: As in `fit_image`.
    """
    if not isinstance(image, JpegImageFile) or fit.interpolation == "nearest":
        return None
    turn, full = turn_of(image), image.size
    shape = turned_size(full, turn)[::-1]
    height, width = fit.resized(shape)
    drafted = image.draft(None, turned_size((_GAP * width, _GAP * height), turn))
    if drafted is None or image.size == full:
        return None
    return Reduction(shape, turned_box(drafted[1][2:], image.size, turn))


def fit_image(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    resize: Resize = "squash",
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.uint8]:
    """Resize the pixels of one image; an image that has the size is returned unchanged.

    Args:
        image: Pixels ``(H, W, C)``, uint8.
        size: See `Fit`, also for the further arguments.
        resize: See `Fit`.
        interpolation: See `Fit`.

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
    pillow = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return fit_pillow(pillow, Fit(size, resize, interpolation))


def fit_pillow(image: Image.Image, fit: Fit, reduction: Reduction | None = None) -> NDArray[np.uint8]:
    """Resize one upright image of Pillow.

    Args:
        image: The image, of mode L or RGB.
        fit: The size, and how the image is brought to it.
        reduction: The scale at which it was decoded; None if it was not reduced.

    Returns:
        Pixels ``(height, width, C)``, uint8, possibly read-only.

    Raises:
        BadImage: As in `fit_image`.
    """
    height, width = fit.size
    inner = fit.resized(reduction.shape if reduction else (image.height, image.width))
    box = reduction.box if reduction else None
    fitted = np.asarray(image.resize(inner[::-1], _RESAMPLING[fit.interpolation], box))
    fitted = fitted.reshape(*inner, len(image.getbands()))
    if inner == fit.size:
        return fitted
    # Rounded like torchvision's CenterCrop; negative if there is a border to fill.
    top, left = round((inner[0] - height) / 2.0), round((inner[1] - width) / 2.0)
    if fit.resize == "crop":
        return fitted[top : top + height, left : left + width]
    boxed = np.zeros((height, width, fitted.shape[2]), np.uint8)
    boxed[-top : inner[0] - top, -left : inner[1] - left] = fitted
    return boxed
