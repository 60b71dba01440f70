"""Single training images of the datasets, such as `mnist:7`."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.runs.quoting import opsin_command, override

if TYPE_CHECKING:
    from opsin.data.source import Source

DATASETS = ("digits", "mnist", "fashion_mnist", "cifar10")
"""Datasets whose images have names: those of up to 32 x 32 pixels that need no path."""


@dataclass(frozen=True)
class DatasetImage:
    """An image of a dataset.

    Attributes:
        pixels: uint8 (H, W) or (H, W, 3), in the usual size of the dataset.
        label: Name of its class.
        count: Number of training images of the dataset.
    """

    pixels: NDArray[np.uint8]
    label: str
    count: int


def dataset_image(dataset: str, number: int, data_dir: str | None) -> DatasetImage:
    """Return a training image of a dataset. Nothing is downloaded.

    Args:
        dataset: One of `DATASETS`.
        number: Number of the image, from 0, in the order of the dataset.
        data_dir: The folder of the data, as in training; None for the default.

    Raises:
        UserError: The dataset or the image does not exist, or the images are not in the folder.
    """
    from opsin.data.fit import fit_image  # imports torch, which takes seconds
    from opsin.data.options import DATA_DIR
    from opsin.data.types import BadImage

    if dataset not in DATASETS:
        raise UserError(f"{dataset!r} has no numbered images; use one of {', '.join(DATASETS)}")
    source = _source(dataset, DATA_DIR if data_dir is None else data_dir)
    images = source.splits["train"]
    if not 0 <= number < len(images):
        raise UserError(f"{dataset} has the training images 0 to {len(images) - 1:,}, got {number}")
    try:
        pixels = fit_image(images.read(number), source.size)
    except BadImage as error:
        raise UserError(f"{images.locate(number)}: {error}") from None
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return DatasetImage(flat, source.classes[images.targets[number]], len(images))


@lru_cache(maxsize=4)
def _source(dataset: str, data_dir: str) -> "Source":
    from opsin.data import datasets
    from opsin.data.datasets.download import MissingData

    options: dict[str, Any] = {} if dataset == "digits" else {"data_dir": data_dir, "download": False}
    try:
        source: Source = getattr(datasets, dataset)(**options)
    except MissingData:
        command = opsin_command("prepare-data", dataset, override("data_dir", data_dir))
        raise UserError(f"the images of {dataset} are not in {data_dir}; download them with {command}") from None
    return source
