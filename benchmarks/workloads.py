"""The workloads, their contenders, and the goals."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from opsin.runs.quoting import override

ContenderName = Literal["bare", "bare_same", "common", "opsin", "opsin_uncached"]

TITLES: dict[str, str] = {
    "bare": "(a) bare, float32",
    "bare_same": "(b) bare, same settings",
    "common": "(c) common practice",
    "opsin": "(d) Opsin",
    "opsin_uncached": "(d) Opsin, feature_cache=off",
}


@dataclass(frozen=True)
class Workload:
    """One network on one kind of images.

    Attributes:
        name: Name for `--only`.
        measure: `steps` measures training steps in steady state in images/s; `runs` measures whole runs in seconds,
            from the decoding of the first image to the end of the test.
        images: Kind of images; `photos` are JPEGs of about 500x375 pixels.
        model: Option of configs/model.
        size: Side of the network's input in pixels.
        batch_size: Batch size of training.
        augmentation: Option of configs/augmentation.
        counts: Number of images of train, val and test.
        epochs: Epochs of a whole run.
        contenders: Names of the contenders.
        overrides: Further overrides for Opsin.
        experiment: Option of configs/experiment, which then sets everything but the images.
    """

    name: str
    measure: Literal["steps", "runs"]
    images: Literal["mnist", "cifar10", "photos"]
    model: str
    size: int
    batch_size: int
    contenders: tuple[ContenderName, ...]
    counts: tuple[int, int, int]
    augmentation: str = "none"
    epochs: int = 10
    overrides: tuple[str, ...] = ()
    experiment: str | None = None

    def command(self, images: Path, contender: str = "opsin") -> list[str]:
        """Return the overrides for this workload with the images in a folder."""
        if self.experiment:
            return [f"experiment={self.experiment}", override("datamodule.path", images), *self.overrides]
        source = {"mnist": "mnist", "cifar10": "cifar10", "photos": "cats_vs_dogs"}[self.images]
        return [
            f"datamodule={source}",
            override("datamodule.path", images),
            f"datamodule.image_size={self.size}",
            f"datamodule.batch_size={self.batch_size}",
            f"model={self.model}",
            f"augmentation={self.augmentation}",
            f"trainer.max_epochs={self.epochs}",
            *(["feature_cache=off"] if contender == "opsin_uncached" else []),
            *self.overrides,
        ]

    def quick(self) -> "Workload":
        """Return a tiny version of the workload, to check that it runs."""
        size = self.size if self.images != "photos" else 48
        return replace(self, counts=(48, 12, 12), size=size, batch_size=min(self.batch_size, 12), epochs=2)


ALL: tuple[ContenderName, ...] = ("bare", "bare_same", "common", "opsin")
SAME_WORK = ("model.weights=none", "report=false")
"""Random weights give the same speed without a download; the other contenders write no report."""


def _transfer(model: str, contenders: tuple[ContenderName, ...], counts: tuple[int, int, int]) -> Workload:
    """Return a workload of ten epochs of a pretrained architecture on photographs at 224 pixels."""
    return Workload(model, "runs", "photos", model, 224, 32, contenders, counts, overrides=SAME_WORK)


WORKLOADS = (
    Workload("mnist_256", "steps", "mnist", "cnn_gap", 28, 256, ALL, (20_000, 500, 500)),
    Workload("mnist_64", "steps", "mnist", "cnn_gap", 28, 64, ALL, (20_000, 500, 500)),
    Workload("cifar10", "steps", "cifar10", "cnn_batchnorm", 32, 64, ALL, (10_000, 500, 500), "crop_flip"),
    Workload("cats_vs_dogs", "steps", "photos", "cats_dogs_cnn", 150, 32, ALL, (640, 32, 32), "cats_dogs"),
    _transfer("resnet18_feature_extract", ("common", "opsin"), (96, 12, 12)),
    _transfer("resnet18_partial", ("opsin_uncached", "opsin"), (72, 12, 12)),
    _transfer("efficientnet_lite0_feature_extract", ("common", "opsin"), (96, 12, 12)),
)

EXTRAS = ("startup", "memory", "growth", "decoding")
"""Further measurements, in `benchmarks.startup_memory_scaling` and `benchmarks.decoding`."""

ON_REQUEST = (
    *("sweep", "shared_machine", "mnist_fast", "cifar10_fast", "feature_cache", "frameworks"),
    *("precision_digits", "precision_mnist", "precision_cifar10", "precision_cats_vs_dogs"),
)
"""Measurements that run only with `--only`, because they take several minutes."""


@dataclass(frozen=True)
class Goal:
    """A goal: the minimum ratio of the speeds of `faster` and `slower` at a workload.

    Attributes:
        workload: Name of the workload.
        faster: Contender in the numerator.
        slower: Contender in the denominator.
        at_least: Minimum ratio of medians.
    """

    workload: str
    faster: ContenderName
    slower: ContenderName
    at_least: float


GOALS = (
    Goal("mnist_256", "opsin", "bare_same", 0.97),
    Goal("mnist_64", "opsin", "bare_same", 0.93),
    Goal("mnist_256", "opsin", "bare", 2.0),
    Goal("mnist_256", "opsin", "common", 2.0),
    Goal("mnist_64", "opsin", "common", 2.0),
    Goal("cifar10", "opsin", "common", 3.0),
    Goal("cats_vs_dogs", "opsin", "common", 3.0),
    Goal("resnet18_feature_extract", "opsin", "common", 8.0),
    Goal("efficientnet_lite0_feature_extract", "opsin", "common", 8.0),
    Goal("resnet18_partial", "opsin", "opsin_uncached", 2.0),
)
