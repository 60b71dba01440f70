"""CIFAR-10, from its authors' Python pickles or from a folder of images."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from opsin.data.datasets.download import DownloadError, fetch, missing_data
from opsin.data.datasets.image_folder import folder_splits
from opsin.data.options import DATA_DIR
from opsin.data.source import ArrayImages, Images, Source
from opsin.data.types import Split
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.home import user_path

# In the order of the labels in the pickles, which is alphabetical.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FOLDER = "cifar-10-batches-py"
_ARCHIVE = "cifar-10-python.tar.gz"
_ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"  # as in torchvision.datasets
_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
_BATCHES: Final[dict[Split, tuple[str, ...]]] = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
_IMAGE_FOLDER = "cifar10"


def cifar10(data_dir: str = DATA_DIR, path: str | None = None, download: bool = True) -> Source:
    """50,000 training and 10,000 test photographs in ten classes, 32x32 RGB.

    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html. Mean and std are those of the training images.

    Args:
        data_dir: Folder with `cifar-10-batches-py`, as in torchvision, or an image folder `cifar10`; downloads are
            saved there.
        path: Another folder with the pickles, their archive, or image folders `train/<class>` and `test/<class>`.
        download: Download missing files.

    Raises:
        UserError: The data are missing and cannot be downloaded, or are damaged.
    """
    root = user_path(data_dir if path is None else path)
    # A folder `train` in the folder of all datasets may be that of another dataset.
    splits = _open(root) if path is not None else _unpacked(root) or _open(root / _IMAGE_FOLDER)
    if splits is None and path is None and download:
        _unpack(_fetch(root), root / _FOLDER)
        splits = _unpacked(root)
    if splits is None:
        if path is not None:
            raise _missing(root, "", "none of its files are there.")
        raise _missing(root, f"{_IMAGE_FOLDER}/", "datamodule.download=false.")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return Source("cifar10", CLASSES, 3, (32, 32), mean, std, splits)


def _open(root: Path) -> Mapping[Split, Images] | None:
    """Return the splits found in a folder in any layout, or None."""
    splits = _unpacked(root)
    if splits is None and (root / "train").is_dir():
        _, splits = folder_splits(root, 3, {name: name for name in CLASSES})
    return splits


def _unpacked(root: Path) -> Mapping[Split, Images] | None:
    """Return the splits of the pickles in a folder, or None; unpacks their archive."""
    for folder in (root / _FOLDER, root):
        if all((folder / name).is_file() for names in _BATCHES.values() for name in names):
            return {split: _batches(folder, split) for split in _BATCHES}
    archive = root / _ARCHIVE
    if archive.is_file():
        content = archive.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != _ARCHIVE_MD5:
            raise UserError(f"{archive} is damaged: its md5 is not {_ARCHIVE_MD5}. Delete it, then run again.")
        _unpack(content, root / _FOLDER)
        return _unpacked(root)
    return None


def _missing(root: Path, folders: str, reason: str) -> UserError:
    """Return the error for missing data, whose image folders would be in `folders` of the root."""
    images = f"the image folders {folders}train/<class>/ and {folders}test/<class>/"
    return missing_data("CIFAR-10", f"the folder {_FOLDER}, or {_ARCHIVE}, or {images},", [root], reason)


def _fetch(root: Path) -> bytes:
    try:
        return fetch(_MIRRORS, _ARCHIVE, _ARCHIVE_MD5)
    except DownloadError as error:
        raise _missing(root, f"{_IMAGE_FOLDER}/", f"it could not be downloaded.\n  {error}") from error


def _unpack(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for name in [name for names in _BATCHES.values() for name in names]:
            member = members.extractfile(f"{_FOLDER}/{name}")
            assert member is not None  # the archive's checksum is known
            write_atomically(folder / name, member.read())


def _batches(folder: Path, split: Split) -> ArrayImages:
    pixels, labels = [], []
    for name in _BATCHES[split]:
        file = folder / name
        try:
            with file.open("rb") as opened:
                batch = _BatchUnpickler(opened, encoding="latin1").load()
            # A row is one image: 1,024 red values, then green, then blue.
            pixels.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.asarray(batch["labels"], np.int64))
            if len(pixels[-1]) != len(labels[-1]) or not set(batch["labels"]) <= set(range(len(CLASSES))):
                raise ValueError("its images and labels do not match")
        except (OSError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{file} is damaged ({error}). Delete it, then run again or copy it there again."
            ) from error
    return ArrayImages(np.concatenate(pixels), np.concatenate(labels), f"cifar10 {split}")


class _PlainType:
    """Stands for the data type of NumPy in a pickle; pixels are bytes, so it is never used."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PlainArray:
    """Stands for the array of NumPy in a pickle, and takes nothing but its bytes.

    NumPy itself would accept a data type that turns bytes into the addresses of objects.
    """

    def __init__(self, *_: Any) -> None:
        self.pixels: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, _, _, by_columns, self.pixels = state
        if by_columns:
            raise pickle.UnpicklingError("its array is stored by columns, which CIFAR-10 files never are")

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        content = self.pixels.encode("latin1") if isinstance(self.pixels, str) else self.pixels
        return np.frombuffer(content, np.uint8)


class _BatchUnpickler(pickle.Unpickler):
    """Reads an array of bytes and plain values, and refuses anything else that a pickle may call."""

    _ALLOWED: Final[dict[str, Any]] = {"_reconstruct": _PlainArray, "ndarray": object(), "dtype": _PlainType}

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for one of the three names that an array needs, for any version of NumPy that wrote it."""
        if module.split(".")[0] != "numpy" or name not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which CIFAR-10 files never do")
        return self._ALLOWED[name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references to objects outside the file."""
        raise pickle.UnpicklingError("it refers to objects outside the file, which CIFAR-10 files never do")
