"""A part of MNIST whose validation images can be training or test images by mistake."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from opsin.data.datasets import ArrayImages, Source, Split, mnist
from opsin.data.options import DATA_DIR
from opsin.data.splitting import stratified_sample
from opsin.data.types import Indices

Count = Annotated[int, Field(ge=10)]


def small_mnist(
    data_dir: str = DATA_DIR,
    path: str | None = None,
    download: bool = True,
    train_images: Count = 1_000,
    val_images: Count = 500,
    test_images: Count | None = None,
    subset_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
    validate_on: Literal["held_out", "train", "test"] = "held_out",
) -> Source:
    """Return stratified samples of MNIST; the training images do not depend on `validate_on`.

    Args:
        data_dir: Folder with `MNIST/raw`.
        path: Another folder with the files of MNIST.
        download: Download missing files.
        train_images: Number of training images.
        val_images: Number of held-out validation images, from the training images of MNIST.
        test_images: Number of test images; None for all 10,000.
        subset_seed: Seed of the samples.
        validate_on: Images of the validation split. `held_out` is correct. `train` and `test` are mistakes.
    """
    whole = mnist(data_dir, path, download)
    train, test = whole.splits["train"], whole.splits["test"]
    assert isinstance(train, ArrayImages)
    assert isinstance(test, ArrayImages)
    chosen = stratified_sample(train.targets, train_images, subset_seed)
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    held_out = rest[stratified_sample(train.targets[rest], val_images, subset_seed)]
    if test_images is not None:
        test = _choose(test, stratified_sample(test.targets, test_images, subset_seed), "test")
    of_val = {"held_out": _choose(train, held_out, "val"), "train": _choose(train, chosen, "val"), "test": test}
    splits: dict[Split, ArrayImages] = {
        "train": _choose(train, chosen, "train"),
        "val": of_val[validate_on],
        "test": test,
    }
    return Source("small_mnist", whole.classes, 1, whole.size, whole.mean, whole.std, splits)


def _choose(images: ArrayImages, index: Indices, split: str) -> ArrayImages:
    return ArrayImages(images.pixels[index], images.targets[index], f"small_mnist {split}")
