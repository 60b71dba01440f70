"""The trained model to interpret, and the images to interpret it with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.data.types import BadImage
from opsin.errors import UserError
from opsin.inference.image_arguments import find_images
from opsin.inference.inputs import InputImages, open_images
from opsin.inference.trained_model import NAMED, TrainedModel, load_trained_model
from opsin.models import load_weights
from opsin.training.permitted_targets import NETWORKS
from opsin.visualization.images import Pixels


class Output(NamedTuple):
    """One output of `interpret`.

    Attributes:
        name: File name without suffix.
        picture: The image; None if there are only lines.
        lines: Lines to print.
        rows: Rows of the CSV file next to the image; empty without such a file.
    """

    name: str
    picture: Pixels | None
    lines: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()


class ImageBatch(NamedTuple):
    """Images with their classes.

    Attributes:
        pixels: uint8 `(N, H, W, C)`.
        targets: Class indices `(N,)`; None if unknown.
        names: File name of each image.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64] | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModelAndImages:
    """A trained model and the source of its images.

    Attributes:
        trained_model: The trained model.
        words: Arguments that select the images, as for `open_images`.
        files: Image files to use instead; usually empty.
    """

    trained_model: TrainedModel
    words: tuple[str, ...]
    files: tuple[Path, ...]

    @cached_property
    def images(self) -> InputImages:
        """The run's own images, or those that `words` selects.

        Raises:
            UserError: The model has no images, and `words` is empty.
        """
        return open_images(self.trained_model, self.words)

    def selected_images(self, count: int) -> ImageBatch:
        """Return the given files, or else a fixed selection of validation images of each class in turn.

        Raises:
            UserError: A file is not an image, or there are no images.
        """
        if not self.files:
            return self.validation(count)
        pixels = []
        for file in self.files:
            try:
                pixels.append(self.trained_model.read(file))
            except BadImage as error:
                raise UserError(f"--images {file}: {error}") from None
        return ImageBatch(np.stack(pixels), None, tuple(file.name for file in self.files))

    def validation(self, count: int) -> ImageBatch:
        """Return validation images of each class in turn; the first images if there are no classes."""
        subset = self.images.subset("val" if self.images.classes else "all")
        shuffled = np.random.default_rng(0).permutation(len(subset)) if self.images.classes else np.arange(len(subset))
        targets = subset.targets[shuffled]
        turn = np.zeros(len(subset), np.int64)
        for label in np.unique(targets):
            turn[targets == label] = np.arange((targets == label).sum())
        chosen = shuffled[np.lexsort((targets, turn))][:count]
        names = tuple(Path(subset.locate(int(position))).name for position in chosen)
        known = self.images.classes and tuple(self.images.classes) == tuple(self.trained_model.classes or ())
        return ImageBatch(subset.read(chosen), subset.targets[chosen] if known else None, names)

    def input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Return the preprocessed input of the network for pixels `(N, H, W, C)`."""
        return self.trained_model.preprocess(torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2))

    def label(self, index: int) -> str:
        """Return the name of a class."""
        classes = self.trained_model.classes
        return classes[index] if classes else str(index)

    def caption(self, batch: ImageBatch, i: int) -> str:
        """Return the class of an image, or its file name if the class is unknown."""
        return batch.names[i] if batch.targets is None else self.label(int(batch.targets[i]))


def open_model_and_images(
    name: str, words: Sequence[str] = (), images: Sequence[str] = (), checkpoint: str = "best"
) -> ModelAndImages:
    """Open a trained model by name, on the GPU if there is one.

    Args:
        name: As for `load_trained_model`; a network with ImageNet weights has ImageNet's classes.
        words: Arguments that select the images, as for `open_images`.
        images: Image files, folders with images in or below them, or patterns, to use instead.
        checkpoint: `best`, `last`, or the path of a checkpoint of the run.

    Raises:
        UserError: There is no such model, or no such file.
    """
    trained_model = load_trained_model(name, checkpoint=checkpoint)
    if trained_model.classes is None and name in NAMED:
        trained_model = _with_imagenet_head(trained_model)
    trained_model.network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return ModelAndImages(trained_model, tuple(words), tuple(find_images(images, trained_model.source_channels)))


def _with_imagenet_head(trained_model: TrainedModel) -> TrainedModel:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    network = NETWORKS.resolve(f"opsin.models.{trained_model.name}")(
        num_logits=info.num_classes(), image_size=trained_model.size
    )
    if not load_weights(network, "imagenet").head:
        return trained_model
    names = [name.split(",")[0] for name in info.label_descriptions()]
    return replace(trained_model, network=network, classes=names)
