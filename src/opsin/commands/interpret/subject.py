"""A network to look into, and the images to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.data.datasets import unlabeled_images
from opsin.data.decode import BadImage
from opsin.errors import UserError
from opsin.inference.inputs import InputImages, open_images
from opsin.inference.trained_model import NAMED, TrainedModel, load_trained_model
from opsin.models import load_weights
from opsin.training.constructors import NETWORKS
from opsin.visualization.images import Pixels


class Finding(NamedTuple):
    """A picture, and what is to be said about it.

    Attributes:
        name: Of its file, without the ending.
        picture: None: there are only lines.
        lines: For a person.
        rows: Of a table that goes beside the picture, as CSV; empty: there is none.
    """

    name: str
    picture: Pixels | None
    lines: Sequence[str] = ()
    rows: Sequence[Mapping[str, object]] = ()


class Looked(NamedTuple):
    """InputImages to look at.

    Attributes:
        pixels: uint8 `(N, H, W, C)`.
        targets: Their classes `(N,)`; None: nobody knows them.
        names: Where each comes from.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64] | None
    names: tuple[str, ...]


@dataclass(frozen=True)
class Subjects:
    """A network that has learned, and where its images come from.

    Attributes:
        learned: The network.
        words: Name its images, as for `open_images`.
        files: InputImages that were named one by one instead; mostly empty.
    """

    learned: TrainedModel
    words: tuple[str, ...]
    files: tuple[Path, ...]

    @cached_property
    def images(self) -> InputImages:
        """The run's own images, or those that the words name.

        Raises:
            UserError: It has none, and none were named.
        """
        return open_images(self.learned, self.words)

    def looked(self, count: int) -> Looked:
        """The named files, or else some validation images, of each class in turn and always the same ones.

        Raises:
            UserError: A file is no image, or there are no images.
        """
        if not self.files:
            return self.validation(count)
        pixels = []
        for file in self.files:
            try:
                pixels.append(self.learned.read(file))
            except BadImage as error:
                raise UserError(f"--images {file}: {error}") from None
        return Looked(np.stack(pixels), None, tuple(file.name for file in self.files))

    def validation(self, count: int) -> Looked:
        """Validation images of each class in turn; of images without classes the first."""
        part = self.images.subset("val" if self.images.classes else "all")
        shuffled = np.random.default_rng(0).permutation(len(part)) if self.images.classes else np.arange(len(part))
        targets = part.targets[shuffled]
        turn = np.zeros(len(part), np.int64)
        for label in np.unique(targets):
            turn[targets == label] = np.arange((targets == label).sum())
        chosen = shuffled[np.lexsort((targets, turn))][:count]
        names = tuple(Path(part.locate(int(position))).name for position in chosen)
        known = self.images.classes and tuple(self.images.classes) == tuple(self.learned.classes or ())
        return Looked(part.read(chosen), part.targets[chosen] if known else None, names)

    def input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What the network sees of pixels `(N, H, W, C)`."""
        return self.learned.preprocess(torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2))

    def label(self, index: int) -> str:
        """The name of a class."""
        classes = self.learned.classes
        return classes[index] if classes else str(index)

    def caption(self, looked: Looked, i: int) -> str:
        """What an image is, or its name where nobody knows."""
        return looked.names[i] if looked.targets is None else self.label(int(looked.targets[i]))


def find_subject(name: str, words: Sequence[str] = (), images: Sequence[str] = ()) -> Subjects:
    """A network by its name, on the accelerator where there is one.

    Args:
        name: As for `load_trained_model`; a network with ImageNet weights comes with ImageNet's classes.
        words: Name its images, as for `open_images`.
        images: Files, or folders of images, to look at instead.

    Raises:
        UserError: There is no such network, or no such file.
    """
    learned = load_trained_model(name)
    if learned.classes is None and name in NAMED:
        learned = _with_its_classes(learned)
    learned.network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return Subjects(learned, tuple(words), tuple(file for image in images for file in _files(image)))


def _with_its_classes(learned: TrainedModel) -> TrainedModel:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    network = NETWORKS.resolve(f"opsin.models.{learned.name}")(num_logits=info.num_classes(), image_size=learned.size)
    if not load_weights(network, "imagenet").head:
        return learned
    names = [name.split(",")[0] for name in info.label_descriptions()]
    return replace(learned, network=network, classes=names)


def _files(image: str) -> list[Path]:
    path = Path(image).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"--images {image}: there is no such file or folder")
    loose = unlabeled_images(str(path))
    if loose is None:
        raise UserError(f"--images {image} has folders in it: name one of them, or the files")
    return [path / file for file in loose.files]
