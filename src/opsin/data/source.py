"""The interface of a dataset: its facts, and a reader for each of its splits."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from opsin.data.decode import decode_image, read_content
from opsin.data.file_contents import FileContents
from opsin.data.fit import Fit, fit_image
from opsin.data.types import SPLITS, BadImage, Channels, Indices, Split
from opsin.errors import UserError


class Images(Protocol):
    """The images of one split, undecoded or in memory. Reading is thread-safe, and the object can be pickled."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """Class indices ``(N,)``, int64, into `Source.classes`."""

    @property
    def fingerprint(self) -> str:
        """A hex digest that changes with the content, the classes or the order of the images."""

    @property
    def channels(self) -> Channels:
        """Channels of the images that `read` returns."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, index: int, fit: Fit | None = None) -> NDArray[np.uint8]:
        """Return one image, uint8 ``(H, W, C)`` with the channels of the source; raises `BadImage`.

        Args:
            index: Number of the image.
            fit: The size, and how the image is brought to it. None: its own size.
        """

    def locate(self, index: int) -> str:
        """Return where a user finds the image: its path, or the split and its number there."""


@runtime_checkable
class EncodedImages(Protocol):
    """Images that are stored as encoded files."""

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the file, for `decode_image`."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, all of one size.

    Attributes:
        pixels: uint8 (N, H, W, C).
        targets: Class of each image (N,); integers of another type are converted to int64.
        name: Name for messages, such as "mnist train".

    Raises:
        UserError: The arrays have another type or shape.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    name: str

    def __post_init__(self) -> None:
        if getattr(self.pixels, "dtype", None) != np.uint8 or self.pixels.ndim != 4:
            raise UserError(
                f"the pixels of {self.name} are {described(self.pixels)}: give a NumPy array, uint8 "
                "(N, H, W, C), of values from 0 to 255, which Opsin scales itself; gray images have C = 1 "
                "(pixels[..., None])"
            )
        object.__setattr__(self, "targets", class_indices(self.targets, len(self.pixels), self.name))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    @property
    def channels(self) -> Channels:
        """Channels of the images."""
        return int(self.pixels.shape[3])

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the shape, the pixels and the targets."""
        digest = hashlib.blake2b(repr(self.pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()

    def read(self, index: int, fit: Fit | None = None) -> NDArray[np.uint8]:
        """Return one image, ``(H, W, C)``; a view if it has the size."""
        image: NDArray[np.uint8] = self.pixels[index]
        return fit_image(image, *fit) if fit else image

    def locate(self, index: int) -> str:
        """Return the name and the number of an image, from 0."""
        return f"{self.name}, image {index}"


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files under one folder.

    Attributes:
        root: The folder.
        files: Path of each image relative to `root`, with forward slashes.
        targets: Class of each image (N,); integers of another type are converted to int64.
        channels: Channels of the images that `read` returns.

    Raises:
        UserError: There is not one class, an integer, for each file.
    """

    root: Path
    files: tuple[str, ...]
    targets: NDArray[np.int64]
    channels: Channels

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "targets", class_indices(self.targets, len(self.files), str(self.root)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @cached_property
    def contents(self) -> FileContents:
        """The contents of the files."""
        return FileContents([f"{self.root}/{file}" for file in self.files])

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the content and the class of each file, in order; files whose content is unknown are read."""
        return content_fingerprint(self.contents, self.targets, self.channels)

    def read(self, index: int, fit: Fit | None = None) -> NDArray[np.uint8]:
        """Decode one file, ``(H, W, channels)``; raises `BadImage`."""
        try:
            content = read_content(self.root / self.files[index])
        except BadImage:
            self.contents.record(index, None)
            raise
        self.contents.record(index, content)
        return decode_image(content, self.channels, fit)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the file.

        Raises:
            UserError: It cannot be read any more.
        """
        try:
            return (self.root / self.files[index]).read_bytes()
        except OSError as error:
            raise UserError(f"{self.locate(index)} cannot be read any more: {error.strerror}") from None

    def locate(self, index: int) -> str:
        """Return the path of the file."""
        return str(self.root / self.files[index])


def content_fingerprint(contents: FileContents, targets: NDArray[np.int64], channels: Channels) -> str:
    """Return a digest of the content and the class of each file, in order, and of the channels it is decoded to."""
    digest = hashlib.blake2b(f"{channels}\n".encode(), digest_size=16)
    digest.update(contents.digests().data)
    digest.update(np.ascontiguousarray(targets, np.int64).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Source:
    """The facts of a dataset, and its images by split.

    Attributes:
        name: Name of the dataset in reports and run directories.
        classes: Class names, in the order of the targets.
        channels: Channels that the images are read with: 1 (gray), 3 (RGB) or another number.
        size: Usual height and width of the images in training, in pixels.
        mean: Mean of pixels in [0, 1], per channel, or None to measure it on the training images.
        std: Standard deviation of pixels in [0, 1], per channel, or None to measure it.
        splits: The images of each split. "train" is always there; a missing val or test is split off from it.

    Raises:
        UserError: There are fewer than two classes, or two of one name; a side of the size is below 1; or a split is
            missing, is empty, or has another name, other channels, or targets outside the classes.
    """

    name: str
    classes: tuple[str, ...]
    channels: Channels
    size: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    splits: Mapping[Split, Images]

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.classes):
            raise UserError(f"the classes of the dataset '{self.name}' are {self.classes}: give their names, as text")
        if len(self.classes) < 2:
            raise UserError(f"the dataset '{self.name}' has the classes {list(self.classes)}: a classifier needs two")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise UserError(f"the dataset '{self.name}' has two classes {twice!r}: give each a name of its own")
        if np.min(self.size) < 1:
            raise UserError(f"the size of the dataset '{self.name}' is {self.size}: give height and width in pixels")
        if unknown := [split for split in self.splits if split not in SPLITS]:
            raise UserError(
                f"the dataset '{self.name}' has the split {unknown[0]!r}: call its splits {', '.join(SPLITS)}"
            )
        if "train" not in self.splits:
            raise UserError(f"the dataset '{self.name}' has no split 'train'")
        for split, images in self.splits.items():
            self._check_images(f"the split {split!r} of the dataset '{self.name}'", images)

    def _check_images(self, what: str, images: Images) -> None:
        if not len(images):
            raise UserError(f"{what} has no images: give it some, or leave it out")
        if images.channels != self.channels:
            raise UserError(
                f"{what} has images of {images.channels} channels, but the dataset states {self.channels}: correct one "
                "of them; the pixels of arrays are (N, H, W, C)"
            )
        targets, last = class_indices(images.targets, len(images), what), len(self.classes) - 1
        if targets.min() < 0 or targets.max() > last:
            raise UserError(
                f"{what} has targets from {targets.min()} to {targets.max()}, but the dataset has {last + 1} classes: "
                f"number them from 0 to {last}"
            )


def class_indices(targets: Any, count: int, owner: str) -> Indices:
    """Return the class of each image as int64, without a copy if it is so already.

    Args:
        targets: The classes.
        count: Number of images.
        owner: The images, for messages.

    Raises:
        UserError: There is not one integer for each image.
    """
    found = np.asarray(targets)
    if found.shape != (count,):
        raise UserError(
            f"{owner} has {count} images, but targets of shape {found.shape}: give one class for each image"
        )
    if count and found.dtype.kind not in "iu":
        raise UserError(
            f"the targets of {owner} are {described(found)}: give the class of each image as an integer, from 0 on"
        )
    return found.astype(np.int64, copy=False)


def described(array: Any) -> str:
    """Return the type and the shape of an array, for messages; the type of any other object."""
    if not hasattr(array, "dtype"):
        return f"an object of type {type(array).__name__}"
    return f"{array.dtype} of shape {tuple(array.shape)}"
