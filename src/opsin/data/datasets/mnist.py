"""MNIST and Fashion-MNIST, read from their idx files."""

import gzip
import logging
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from opsin.data.datasets.download import DownloadError, fetch, missing_data
from opsin.data.options import DATA_DIR
from opsin.data.source import ArrayImages, Source
from opsin.data.types import Split
from opsin.errors import UserError
from opsin.runs.atomic import write_atomically
from opsin.runs.home import user_path

_LOG = logging.getLogger(__name__)

_PREFIXES: Final[dict[Split, str]] = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_WANTED = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte "
    "(each plain or .gz)"
)


@dataclass(frozen=True)
class _Facts:
    name: str
    title: str
    folder: str  # torchvision's, under the data directory
    mirrors: tuple[str, ...]
    md5: dict[str, str]  # MD5 of each .gz file, as in torchvision.datasets
    classes: tuple[str, ...]
    mean: float  # mean of the training images, scaled to [0, 1]
    std: float
    elsewhere: tuple[Path, ...] = ()


_MNIST = _Facts(
    name="mnist",
    title="MNIST",
    folder="MNIST/raw",
    # The original server, yann.lecun.com, answers 403, 404 or 503 (pytorch/vision#3549, #8568).
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5={
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    classes=tuple(str(digit) for digit in range(10)),
    mean=0.1307,
    std=0.3081,
)
_FASHION_MNIST = _Facts(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folder="FashionMNIST/raw",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    md5={
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=0.2860,
    std=0.3530,
    elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
)


def mnist(data_dir: str = DATA_DIR, path: str | None = None, download: bool = True) -> Source:
    """60,000 training and 10,000 test images of handwritten digits, 28x28 gray.

    LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist. Mean and std are those of the training images.

    Args:
        data_dir: Folder with `MNIST/raw`, as in torchvision; downloads are saved there.
        path: Another folder with the idx files, plain or .gz.
        download: Download missing files.

    Raises:
        UserError: The files are missing and cannot be downloaded, or are damaged.
    """
    return _read(_MNIST, data_dir, path, download)


def fashion_mnist(data_dir: str = DATA_DIR, path: str | None = None, download: bool = True) -> Source:
    """60,000 training and 10,000 test images of Zalando's articles in ten classes, 28x28 gray.

    Xiao, Rasul and Vollgraf, https://arxiv.org/abs/1708.07747. The files of Debian's package
    `dataset-fashion-mnist` are found automatically.

    Args:
        data_dir: Folder with `FashionMNIST/raw`, as in torchvision; downloads are saved there.
        path: Another folder with the idx files, plain or .gz.
        download: Download missing files.

    Raises:
        UserError: The files are missing and cannot be downloaded, or are damaged.
    """
    return _read(_FASHION_MNIST, data_dir, path, download)


def _read(facts: _Facts, data_dir: str, path: str | None, may_download: bool) -> Source:
    if path is None:
        folders = (user_path(data_dir) / facts.folder, *facts.elsewhere)
    else:
        root = user_path(path)
        folders = (root, root / "raw", root / facts.folder)
    folder = next((folder for folder in folders if all(_find(folder, name) for name in facts.md5)), None)
    if folder is None:
        if path is not None or not may_download:
            reason = "not all of its files are there." if path is not None else "datamodule.download=false."
            raise missing_data(facts.title, _WANTED, folders, reason)
        folder = folders[0]
        _download(facts, folder, folders)
    splits = {split: _images(facts, folder, split) for split in _PREFIXES}
    return Source(facts.name, facts.classes, 1, (28, 28), (facts.mean,), (facts.std,), splits)


def _find(folder: Path, name: str) -> Path | None:
    """Return the file, plain or .gz; some archives have a dot in the name instead of the dash before `idx`."""
    for candidate in (name, name.replace("-idx", ".idx")):
        for file in (folder / candidate, folder / f"{candidate}.gz"):
            if file.is_file():
                return file
    return None


def _download(facts: _Facts, folder: Path, folders: tuple[Path, ...]) -> None:
    """Download the files that are missing in a folder; each is checked, unpacked and written atomically."""
    for name, md5 in facts.md5.items():
        if _find(folder, name):
            continue
        try:
            packed = fetch(facts.mirrors, f"{name}.gz", md5)
        except DownloadError as error:
            raise missing_data(facts.title, _WANTED, folders, f"it could not be downloaded.\n  {error}") from error
        write_atomically(folder / name, gzip.decompress(packed))


def _images(facts: _Facts, folder: Path, split: Split) -> ArrayImages:
    prefix = _PREFIXES[split]
    pixels = _read_idx(folder, f"{prefix}-{_IMAGES}")
    labels = _read_idx(folder, f"{prefix}-{_LABELS}")
    if len(pixels) != len(labels) or (labels.size and labels.max() >= len(facts.classes)):
        raise UserError(
            f"{facts.title} in {folder}: {len(pixels)} {split} images but {len(labels)} labels, or a label "
            f"above {len(facts.classes) - 1}. Delete the files {prefix}-* and copy them there again."
        )
    return ArrayImages(pixels[..., np.newaxis], labels.astype(np.int64), f"{facts.name} {split}")


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an idx file of bytes: two zeros, type 8, the number of axes, their big-endian lengths, the values."""
    file = _find(folder, name)
    assert file is not None
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        if content[:3] != b"\0\0\x08":
            raise ValueError("its first bytes are not those of an idx file of bytes")
        header = 4 + 4 * content[3]
        shape = np.frombuffer(content[4:header], ">i4")
        if len(shape) != int(name[name.index("idx") + 3]):
            raise ValueError(f"it has {len(shape)} axes")
        return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    except (OSError, EOFError, LookupError, ValueError, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}). Delete it, then run again or copy it there again.") from error
