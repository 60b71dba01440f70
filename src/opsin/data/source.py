"""What a source of images promises: its facts, and a reader for each split it brings."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from opsin.data.decode import decode_image

Split = Literal["train", "val", "test"]
Channels = Literal[1, 3]

DATA_DIR = "data"
"""Default folder of downloads and decoded images."""


class Images(Protocol):
    """The images of one split, undecoded or in memory. Reading is thread-safe, and the whole can be pickled."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """The class of every image (N,): indices into `Source.classes`."""

    @property
    def fingerprint(self) -> str:
        """A hex digest that changes when the content, the classes or the order of the images do."""

    def __len__(self) -> int:
        """The number of images."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image, uint8 (H, W, C) with the channels of the source; raises `BadImage` if it has none."""

    def locate(self, index: int) -> str:
        """Where a person finds the image: its path, or the split and its number there."""


@runtime_checkable
class EncodedImages(Protocol):
    """Images that are files, or were."""

    def encoded(self, index: int) -> bytes:
        """The bytes of the file, which `decode_image` makes the image of."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images that fit in memory and have one size.

    Attributes:
        pixels: uint8 (N, H, W, C).
        targets: Class of each image (N,), int64.
        name: What they are, for a person: "mnist train".
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    name: str

    def __len__(self) -> int:
        """The number of images."""
        return len(self.targets)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the shape, the pixels and the targets."""
        digest = hashlib.blake2b(repr(self.pixels.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.pixels).data)
        digest.update(np.ascontiguousarray(self.targets).data)
        return digest.hexdigest()

    def read(self, index: int) -> NDArray[np.uint8]:
        """A view of one image, (H, W, C)."""
        image: NDArray[np.uint8] = self.pixels[index]
        return image

    def locate(self, index: int) -> str:
        """The name and the number, from 0."""
        return f"{self.name}, image {index}"


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files under one folder.

    Attributes:
        root: The folder.
        files: Path of each image relative to `root`, with forward slashes.
        targets: Class of each image (N,), int64.
        channels: What `read` gives: 1 (grey) or 3 (RGB).
    """

    root: Path
    files: tuple[str, ...]
    targets: NDArray[np.int64]
    channels: Channels

    def __len__(self) -> int:
        """The number of images."""
        return len(self.files)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of each file's relative path, size, modification time and class: no file is opened."""
        digest = hashlib.blake2b(f"{self.channels}\n".encode(), digest_size=16)
        for file, target in zip(self.files, self.targets.tolist(), strict=True):
            digest.update(f"{file}\0{_state(f'{self.root}/{file}')}\0{target}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def read(self, index: int) -> NDArray[np.uint8]:
        """The decoded file, (H, W, channels); raises `BadImage`."""
        return decode_image(self.root / self.files[index], self.channels)

    def encoded(self, index: int) -> bytes:
        """The bytes of the file."""
        return (self.root / self.files[index]).read_bytes()

    def locate(self, index: int) -> str:
        """The path of the file."""
        return str(self.root / self.files[index])


def _state(file: str) -> str:
    try:
        state = os.stat(file)  # noqa: PTH116 - there may be a million, and a Path costs more than its stat
    except OSError:
        return "unreadable"  # a dangling link, say: `read` will say what is wrong with it
    return f"{state.st_size} {state.st_mtime_ns}"


@dataclass(frozen=True, eq=False)
class Source:
    """The facts of a dataset and its images, as far as they come with splits.

    Attributes:
        name: What the dataset is called in reports and run directories.
        classes: Names, in the order of the targets.
        channels: 1 (grey) or 3 (RGB): what the images are read as.
        size: (height, width) in pixels at which the dataset is customarily served.
        mean: Of pixels in [0, 1], per channel; None: to be measured on the training images.
        std: Likewise.
        splits: Which of train, val and test the data bring. Always "train"; what is missing is carved from it.
    """

    name: str
    classes: tuple[str, ...]
    channels: Channels
    size: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    splits: Mapping[Split, Images]
