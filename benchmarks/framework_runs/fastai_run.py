"""Train ResNet18 from scratch with fastai, as its documentation does, and print the test accuracy.

Usage: `python fastai_run.py PHOTOS OUTPUT SIZE EPOCHS BATCH_SIZE WORKERS`, with the folders `train`, `val` and `test`
in PHOTOS.
"""

import sys
from pathlib import Path

from fastai.vision.all import (
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
    SaveModelCallback,
    accuracy,
    get_image_files,
    imagenet_stats,
)
from torchvision.models import resnet18


def main(photos: Path, output: Path, size: int, epochs: int, batch_size: int, workers: int) -> None:
    """Train, keep the weights of the best epoch, and test them."""
    data = ImageDataLoaders.from_folder(
        photos,
        train="train",
        valid="val",
        item_tfms=RandomResizedCrop(size, min_scale=0.08),
        batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)],
        bs=batch_size,
        num_workers=workers,
        device="cpu",
    )
    learner = Learner(
        data,
        resnet18(num_classes=2),
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
        path=output,
        cbs=SaveModelCallback(monitor="accuracy"),
    )
    with learner.no_bar():
        learner.fit_one_cycle(epochs)
        learner.remove_cb(SaveModelCallback)
        test = data.test_dl(get_image_files(photos / "test"), with_labels=True)
        print(float(learner.validate(dl=test)[1]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
