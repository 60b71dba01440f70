"""A source for tests of teachers: the digits in three splits, with correct or shuffled labels."""

import numpy as np

from opsin.data.datasets import ArrayImages, Source, digits


def digit_splits(shuffled: bool = False, classes: str = "0123456789") -> Source:
    """Return 200 digits for train, 50 for val and 50 for test; shuffling changes only the labels."""
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
    return Source("digit_splits", tuple(classes), 1, whole.size, whole.mean, whole.std, splits)
