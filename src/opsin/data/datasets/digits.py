"""scikit-learn's bundled handwritten digits: no download, so every command works everywhere."""

import numpy as np

from opsin.data.source import ArrayImages, Source


def digits() -> Source:
    """1,797 scanned digits without splits, 8x8 pixels of 17 gray levels, usually resized to 28x28.

    The test set of UCI's "Optical Recognition of Handwritten Digits", as in `sklearn.datasets.load_digits`.
    """
    from sklearn.datasets import load_digits  # takes 1.5 s

    bunch = load_digits()
    pixels = np.rint(bunch.images[..., np.newaxis] * (255 / 16)).astype(np.uint8)
    images = ArrayImages(pixels, bunch.target.astype(np.int64), "digits")
    classes = tuple(str(digit) for digit in range(10))
    # Every network of the lectures accepts 28x28.
    return Source("digits", classes, 1, (28, 28), mean=None, std=None, splits={"train": images})
