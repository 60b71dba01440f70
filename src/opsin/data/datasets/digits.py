"""scikit-learn's bundled handwritten digits: no download, so every command works everywhere."""

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsin.data.source import ArrayImages, Source


def digits() -> Source:
    """1,797 scanned digits without splits, 8x8 pixels of 17 gray levels, usually resized to 28x28.

    The test set of UCI's "Optical Recognition of Handwritten Digits", as in `sklearn.datasets.load_digits`.
    """
    levels, targets = _read_digits()
    pixels = np.rint(levels[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    images = ArrayImages(pixels, targets.astype(np.int64), "digits")
    classes = tuple(str(digit) for digit in range(10))
    # Every network of the lectures accepts 28x28.
    return Source("digits", classes, 1, (28, 28), mean=None, std=None, splits={"train": images})


def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the gray levels `(N, 8, 8)`, from 0 to 16, and the digits `(N,)`.

    The file of scikit-learn is read directly, because importing scikit-learn takes longer than a short run trains.
    """
    found = importlib.util.find_spec("sklearn")
    file = Path(found.origin if found and found.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # another version of scikit-learn keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
