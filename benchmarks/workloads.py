"""The work that is measured, who does it, and what is aimed at."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from opsin.runs.quoting import override

Contestant = Literal["bare", "bare_same", "common", "opsin", "opsin_uncached"]

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
        name: what `--only` takes.
        measure: `steps` times training steps in steady state, in images/s; `runs` times whole runs, from the
            decoding of the first image to the test, in seconds.
        images: which images; `photos` are JPEGs of about 500x375 pixels.
        model: option of configs/model.
        size: side in pixels at which the network sees the images.
        batch_size: of training.
        augmentation: option of configs/augmentation.
        counts: images of train, val and test.
        epochs: of a whole run.
        contestants: who does the work.
        words: further words for Opsin's command line.
    """

    name: str
    measure: Literal["steps", "runs"]
    images: Literal["mnist", "cifar10", "photos"]
    model: str
    size: int
    batch_size: int
    contestants: tuple[Contestant, ...]
    counts: tuple[int, int, int]
    augmentation: str = "none"
    epochs: int = 10
    words: tuple[str, ...] = ()

    def command(self, images: Path, contestant: str = "opsin") -> list[str]:
        """The words that make Opsin do this work on the images in a folder."""
        source = {"mnist": "mnist", "cifar10": "cifar10", "photos": "cats_vs_dogs"}[self.images]
        return [
            f"datamodule={source}",
            override("datamodule.path", images),
            f"datamodule.image_size={self.size}",
            f"datamodule.batch_size={self.batch_size}",
            f"model={self.model}",
            f"augmentation={self.augmentation}",
            f"trainer.max_epochs={self.epochs}",
            *(["feature_cache=off"] if contestant == "opsin_uncached" else []),
            *self.words,
        ]

    def quick(self) -> "Workload":
        """The same on hardly any images: to see that it runs, not how fast."""
        size = self.size if self.images != "photos" else 48
        return replace(self, counts=(48, 12, 12), size=size, batch_size=min(self.batch_size, 12), epochs=2)


ALL: tuple[Contestant, ...] = ("bare", "bare_same", "common", "opsin")
SAME_WORK = ("model.weights=none", "report=false")
"""A network is as fast with random weights, and nothing need be downloaded; nobody else writes a report."""


def _transfer(model: str, contestants: tuple[Contestant, ...], counts: tuple[int, int, int]) -> Workload:
    """Ten epochs of a pretrained network on photographs at 224 pixels."""
    return Workload(model, "runs", "photos", model, 224, 32, contestants, counts, words=SAME_WORK)


WORKLOADS = (
    Workload("mnist_256", "steps", "mnist", "cnn_gap", 28, 256, ALL, (20_000, 500, 500)),
    Workload("mnist_64", "steps", "mnist", "cnn_gap", 28, 64, ALL, (20_000, 500, 500)),
    Workload("cifar10", "steps", "cifar10", "cnn_batchnorm", 32, 64, ALL, (10_000, 500, 500), "crop_flip"),
    Workload("cats_vs_dogs", "steps", "photos", "cats_dogs_cnn", 150, 32, ALL, (640, 32, 32), "cats_dogs"),
    _transfer("resnet18_feature_extract", ("common", "opsin"), (96, 12, 12)),
    _transfer("resnet18_partial", ("opsin_uncached", "opsin"), (72, 12, 12)),
    _transfer("efficientnet_lite0_feature_extract", ("common", "opsin"), (96, 12, 12)),
)

EXTRAS = ("startup", "memory", "growth")
"""What else is measured, by functions of their own, in `benchmarks.startup_memory_scaling`."""

ON_REQUEST = ("sweep",)
"""What `--only` takes besides: several minutes that the whole does without."""


@dataclass(frozen=True)
class Goal:
    """A figure to reach: how many times faster `faster` is than `slower` at a workload.

    Attributes:
        workload: its name.
        faster: the contestant whose speed stands above the line.
        slower: the one below it.
        at_least: the ratio of medians to reach.
    """

    workload: str
    faster: Contestant
    slower: Contestant
    at_least: float


GOALS = (
    Goal("mnist_256", "opsin", "bare_same", 0.97),
    Goal("mnist_64", "opsin", "bare_same", 0.90),
    Goal("mnist_256", "opsin", "bare", 2.0),
    Goal("mnist_256", "opsin", "common", 2.0),
    Goal("mnist_64", "opsin", "common", 2.0),
    Goal("cifar10", "opsin", "common", 3.0),
    Goal("cats_vs_dogs", "opsin", "common", 3.0),
    Goal("resnet18_feature_extract", "opsin", "common", 8.0),
    Goal("efficientnet_lite0_feature_extract", "opsin", "common", 8.0),
    Goal("resnet18_partial", "opsin", "opsin_uncached", 2.0),
)
