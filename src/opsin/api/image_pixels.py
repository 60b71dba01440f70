"""Images of any kind as the pixels that a trained model reads: files, Pillow images, arrays and tensors."""

from collections.abc import Iterable, Mapping, Set
from os import PathLike, fspath
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from opsin.data.decode import damage_as_bad_image, image_pixels
from opsin.data.fit import fit_image
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.trained_model import TrainedModel
from opsin.runs.home import user_path
from opsin.visualization.images import Pixels

OneImage: TypeAlias = str | PathLike[str] | bytes | Image.Image | NDArray[Any] | torch.Tensor
"""One image: the path of a file, its bytes, a Pillow image, an array or a tensor."""

KINDS = "the path of a file, a Pillow image, an array (H, W) or (H, W, C), or a tensor (C, H, W)"
CHANNELS = (1, 3, 4)
"""Numbers of channels that every model accepts: gray, RGB, RGB with alpha, which is dropped."""

ROUNDING = 1e-3
"""Largest distance of floats from 0..1 that is an error of arithmetic, such as that of a resize in half precision."""

_LOCKS = tuple(Lock() for _ in range(61))
"""One of them is held while a Pillow image is read, because reading decodes it: several threads may get the same image.
Their number is prime, so that images at addresses with equal distances have different ones."""


def read_image(image: OneImage, trained: TrainedModel) -> Pixels:
    """Return the pixels of an image at the size of a model, with the transform of its evaluation.

    Args:
        image: An image of any kind.
        trained: The model, which determines size and channels.

    Returns:
        uint8 `(height, width, source_channels)`.

    Raises:
        BadImage: A file or a Pillow image cannot be decoded.
        UserError: An array has another shape or range of values.
    """
    if isinstance(image, bytes):
        return trained.read(image)
    if isinstance(image, str | PathLike):
        path = user_path(image)
        if path.is_dir():
            raise BadImage("it is a folder: give a list of its files, such as sorted(Path(folder).glob('*.jpg'))")
        return trained.read(path)
    if not isinstance(image, Image.Image):
        return fit_image(_pixels_of_values(image, trained.source_channels), *trained.fit)
    with _lock_of(image):
        found = _content_or_pixels(image, trained.source_channels)
    return trained.read(found) if isinstance(found, bytes) else fit_image(found, *trained.fit)


def _lock_of(image: Image.Image) -> Lock:
    """Return the lock of an image: always the same one, which few other images have."""
    return _LOCKS[id(image) // 16 % len(_LOCKS)]


def _content_or_pixels(image: Image.Image, channels: int) -> bytes | Pixels:
    """Return the bytes of a JPEG that is not decoded yet, and the upright pixels of any other Pillow image.

    Raises:
        BadImage: It cannot be decoded.
        UserError: Its file is closed.
    """
    if isinstance(image, ImageFile) and image.tile and (image.fp is None or getattr(image.fp, "closed", False)):
        raise UserError("its file was closed before it was decoded: call image.load() while the file is open")
    with damage_as_bad_image():
        if (content := _undecoded_jpeg(image)) is not None:
            return content
        image.load()  # before its orientation is read, because Pillow turns a TIFF when it decodes it
        return image_pixels(image, channels)


def _undecoded_jpeg(image: Image.Image) -> bytes | None:
    """Return the bytes of a JPEG that Pillow has opened but not decoded, so that its pixels are those of its file.

    None for everything else, and for a JPEG with a scale or frame that the caller has chosen.
    """
    if not isinstance(image, JpegImageFile) or not image.tile or image.decoderconfig or image.tell():
        return None
    if image.fp is None:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return content


def _pixels_of_values(image: Any, channels: int) -> Pixels:
    """Return the pixels of an array or a tensor."""
    pixels = _checked(image, channels)
    if pixels.shape[2] == channels:
        return pixels
    return image_pixels(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), channels)


def _checked(image: Any, channels: int) -> Pixels:
    """Return an array or a tensor as uint8 `(H, W, C)`.

    Raises:
        UserError: Shape, type or range do not describe an image.
    """
    if isinstance(image, torch.Tensor):
        values = image.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has no bfloat16
        return _eight_bits(_channels_last(values.numpy(), channels, is_tensor=True))
    if isinstance(image, np.ndarray):
        return _eight_bits(_channels_last(image, channels, is_tensor=False))
    raise UserError(f"{type(image).__name__} is not an image: give {KINDS}")


def _channels_last(values: NDArray[Any], channels: int, *, is_tensor: bool) -> NDArray[Any]:
    shape = values.shape
    known = sorted({*CHANNELS, channels})
    axis = 0 if is_tensor else -1
    if 0 in shape:
        raise UserError(f"an image of shape {shape} has no pixels")
    if len(shape) == 2:
        return values[:, :, np.newaxis]
    if len(shape) == 3 and shape[axis] in known:
        return values.transpose(1, 2, 0) if is_tensor else values
    kind, expected = ("a tensor", "(H, W) or (C, H, W)") if is_tensor else ("an array", "(H, W) or (H, W, C)")
    hint = ""
    if len(shape) == 3 and shape[-1 - axis if is_tensor else 0] in known:
        other = "image.permute(2, 0, 1)" if is_tensor else "image.transpose(1, 2, 0), or torch.from_numpy(image)"
        hint = f"; its channels seem to be {'last' if is_tensor else 'first'}: give {other}"
    elif len(shape) in (3, 4):
        hint = "; several images are a list: give list(images)"
    counts = ", ".join(map(str, known))
    raise UserError(f"{kind} of shape {shape} is not an image: it must be {expected} with C of {counts}{hint}")


def _eight_bits(values: NDArray[Any]) -> Pixels:
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0))
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(f"pixels of type {values.dtype}: give uint8 in 0..255, or floats in 0..1")
    low, high = float(values.min()), float(values.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also true for NaN
        white = "divide them by the value of white (255 for 8 bits)"
        advice = white if low >= 0 and high <= 255 else "do not normalize them, the model does that"
        advice = "replace those that are not a number" if np.isnan(low) else advice
        raise UserError(f"pixels are floats from {low:.4g} to {high:.4g} instead of 0 to 1: {advice}")
    pixels: Pixels = np.rint(values * 255).astype(np.uint8)
    return pixels


def image_name(image: Any, position: int | None) -> str:
    """Return the name of an image for a message: its path, or its position in a list, from 0."""
    if isinstance(image, str | PathLike):
        return fspath(image)
    return "the image" if position is None else f"image {position}"


def is_one_image(images: Any) -> bool:
    """Return whether an argument is one image; otherwise it is a collection or an iterator of images.

    Raises:
        UserError: It is neither.
    """
    if isinstance(images, str | PathLike | bytes | Image.Image | np.ndarray | torch.Tensor):
        return True
    if hasattr(images, "read"):  # its lines are no images
        raise UserError(f"{type(images).__name__} is not an image: give its path, or its bytes, as read() returns them")
    if isinstance(images, Mapping | Set):  # a set has no order; a mapping yields keys, not images
        raise UserError(f"a {type(images).__name__} of images is not accepted: give a list of them")
    if isinstance(images, Iterable):
        return False
    raise UserError(f"{type(images).__name__} is not an image: give {KINDS}, or a list or generator of them")
