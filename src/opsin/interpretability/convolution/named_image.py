"""The image that a text names: a sample, a training image of a dataset, a file, or numbers."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsin.errors import UserError
from opsin.interpretability.convolution.dataset_images import DATASETS, dataset_image
from opsin.interpretability.convolution.inspection import InspectedImage, inspect_array, inspect_file
from opsin.interpretability.convolution.matrix_text import parse_matrix
from opsin.interpretability.convolution.sample_images import sample, sample_names
from opsin.runs.home import user_path

LARGEST_TYPED = 64
"""Largest number of rows and columns of an image typed as numbers."""

_NUMBERED = re.compile(r"(\w+):(\d{1,9})")
_NUMBERS = re.compile(r"[\d\s.,;/eE+-]+")


def named_image(name: str, data_dir: str | None) -> NDArray[Any]:
    """Return an image by its name.

    Args:
        name: A sample, such as `cat`; a training image of a dataset, such as `mnist:7`; a file; or the numbers of a
            gray image, such as `"1 2; 3 4"`, which are used as they are.
        data_dir: The folder of the datasets; None for the default.

    Returns:
        uint8 (H, W) or (H, W, 3); float64 (H, W) for numbers.

    Raises:
        UserError: There is no such image, or the file is not an image.
    """
    if name in sample_names() or _NUMBERED.fullmatch(name):
        return named_picture(name, data_dir)
    if path := named_file(name):
        from opsin.data.decode import decode_image  # imports torch, which takes seconds

        with _named_errors(path):
            return decode_image(path, 3)
    if _NUMBERS.fullmatch(name) and any(letter.isdigit() for letter in name):
        return parse_matrix(name, "the image", LARGEST_TYPED)
    raise UserError(
        f"{name} is neither a file nor a sample image; the samples are {', '.join(sample_names())}. Training images of "
        f'{", ".join(DATASETS)} have numbers, as in mnist:7. The rows of a gray image can be typed: "1 2; 3 4"'
    )


def named_picture(name: str, data_dir: str | None) -> NDArray[np.uint8]:
    """Return a sample or a training image of a dataset by name, (H, W) or (H, W, 3); no file is opened by its path.

    Raises:
        UserError: There is no such image.
    """
    if numbered := _NUMBERED.fullmatch(name):
        return dataset_image(numbered[1], int(numbered[2]), data_dir).pixels
    return sample(name)


def inspect_named(name: str, data_dir: str | None) -> InspectedImage:
    """Return the image that a name stands for in `named_image`, a file with its values as they are stored.

    Raises:
        UserError: As `named_image`.
    """
    path = named_file(name)
    if path is None:
        return inspect_array(named_image(name, data_dir))
    with _named_errors(path):
        return inspect_file(path)


def named_file(name: str) -> Path | None:
    """Return the file that a name stands for; None for other images."""
    path = user_path(name)
    if name in sample_names() or _NUMBERED.fullmatch(name):
        return None
    try:
        return path if path.is_file() else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a large image typed as numbers
            return None
        raise  # such as a folder that may not be read


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    from opsin.data.types import BadImage

    try:
        yield
    except BadImage as error:
        raise UserError(f"{path}: {error}. Use another file, or a sample such as cat") from None
