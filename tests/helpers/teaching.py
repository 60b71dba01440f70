"""A source for tests of teachers: the digits with splits of their own, whose labels can be shuffled."""

import numpy as np

from opsin.data.datasets import ArrayImages, Source, digits


def divided_digits(shuffled: bool = False, classes: str = "0123456789") -> Source:
    """200 digits to train on, 50 to validate and 50 to test; the pixels of each split are the same either way."""
    whole = digits()
    images = whole.splits["train"]
    assert isinstance(images, ArrayImages)
    targets = images.targets[:300]
    if shuffled:
        targets = np.random.default_rng(0).permutation(targets)
    splits = {
        name: ArrayImages(images.pixels[rows], targets[rows], f"digits {name}")
        for name, rows in (("train", slice(200)), ("val", slice(200, 250)), ("test", slice(250, 300)))
    }
    return Source("divided_digits", tuple(classes), 1, whole.size, whole.mean, whole.std, splits)
