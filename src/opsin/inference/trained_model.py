"""A network that has learned, found by its name, and what it makes of images: for teachers and for embeddings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.cache.image_store import Store, decode_rows, store_key
from opsin.data.decode import decode_image
from opsin.data.preprocessing import Interpolation, Preprocess, Resize, fit_image
from opsin.data.subset import Subset
from opsin.data.types import Channels, Indices
from opsin.errors import UserError, did_you_mean
from opsin.inference.opened_run import open_run
from opsin.models import Network, load_weights
from opsin.models.weights import KINDS, UnreachableError, known_weights
from opsin.runs.directory import RunDirectory, find_runs
from opsin.runs.result import ImageFormat
from opsin.training.constructors import NETWORKS
from opsin.training.feature_extraction import Extractor, extract

NAMED = sorted(set(KINDS["imagenet"]) - {"timm"})
"""The networks whose name alone says which ImageNet weights are meant."""


@dataclass(frozen=True)
class TrainedModel:
    """A network that has learned, and the images it wants.

    Attributes:
        name: A run directory, or the network's own name.
        network: With its weights.
        classes: What its logits mean; None: it has no logits for the classes of a run.
        size: (height, width) of its images, in pixels.
        mean: Of its pixels in [0, 1], per channel.
        std: Likewise.
        channels: Of its images.
        resize: How images are brought to its size.
        interpolation: Likewise.
        source_channels: What files are read as: 1 where it has learned from grey images, repeated or not.
    """

    name: str
    network: Network
    classes: Sequence[str] | None
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    resize: Resize
    interpolation: Interpolation
    source_channels: Channels = 3

    @property
    def preprocess(self) -> Preprocess:
        """What makes its input of uint8 pixels `(N, C, H, W)`."""
        return Preprocess(self.mean, self.std, self.channels)

    def read(self, image: Path | bytes) -> NDArray[np.uint8]:
        """An image file, or its bytes, as uint8 `(H, W, source_channels)` at its size: the evaluation transform.

        Raises:
            BadImage: It cannot be decoded.
        """
        return fit_image(decode_image(image, self.source_channels), self.size, self.resize, self.interpolation)

    @property
    def image_format(self) -> ImageFormat:
        """The images that the network expects."""
        return ImageFormat(self.size, self.mean, self.std, self.channels, self.resize, self.interpolation)

    def extractor(self, trainer: L.Trainer, *, logits: bool = False) -> Extractor:
        """What computes its embeddings as a trainer evaluates: on its device, in its precision.

        Args:
            trainer: Tells device and precision.
            logits: Whether its logits are wanted too, beside the embeddings.
        """
        steps = [self.network.embedding_step, *([list(self.network.steps())[-1]] if logits else [])]
        return Extractor(
            self.network,
            tuple(steps),
            trainer.strategy.root_device,
            trainer.strategy.precision_plugin.forward_context,
            str(trainer.precision),
            vectors=True,
        )

    def outputs(self, part: Subset, extractor: Extractor, cache_dir: Path) -> FeatureSubset:
        """What it makes of the images of a split, `(N, D)`; those that are missing in the cache are computed now.

        The images are the evaluation transform at its own size, whatever size they are served at otherwise.

        Args:
            part: The split.
            extractor: One of its own.
            cache_dir: The folder of all feature stores.

        Raises:
            UserError: The images have colours and the network takes grey ones, or the cache cannot be written.
        """
        channels = part.stores[0].shape[2]
        if channels > self.channels:
            raise UserError(f"{self.name} has learned from grey images, and these have {channels} channels")
        preprocess = self.preprocess

        def images(store: Store, rows: Indices) -> Tensor:
            if store.fingerprint == self._key(store):
                pixels = store.take(rows)
            else:
                pixels = decode_rows(store, rows, self.size, self.resize, self.interpolation)
            return preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(extractor.device))

        # Known by the images at this network's size: runs that see them at other sizes share what it makes of them.
        return extract(
            part,
            extractor,
            [images],
            [asdict(self.image_format)],
            cache_dir=cache_dir,
            fingerprint=self._key,
        )

    def _key(self, store: Store) -> str:
        return store_key(store.images, self.size, self.resize, self.interpolation)


def load_trained_model(name: str, image_size: int | None = None, place: str = "") -> TrainedModel:
    """A network that has learned, by its name: a run directory, or a network of Opsin's that has ImageNet weights.

    Args:
        name: Of one or the other.
        image_size: Side of its images in pixels; None: that which it has learned from.
        place: Where the name was given, such as `model.teacher=`, for the message.

    Raises:
        UserError: There is neither, or its weights cannot be had.
    """
    run = RunDirectory(Path(name).expanduser().resolve())
    if run.config.is_file():
        return _of_run(run, image_size)
    weights = known_weights(name).get("imagenet") if name in NAMED else None
    if weights is None:
        hint = did_you_mean(name, NAMED, place) or "."
        runs = [str(found.path) for found in find_runs(Path("outputs"))[:3]]
        newest = f" The newest runs are {', '.join(runs)}." if runs else ""
        raise UserError(
            f"{place}{name} is neither a run directory (it has no {run.config.name}) nor a network with ImageNet "
            f"weights{hint} Such networks are {', '.join(NAMED)}.{newest}"
        )
    size = (image_size, image_size) if image_size else weights.size
    network = NETWORKS.resolve(f"opsin.models.{name}")(num_logits=1, image_size=size)
    try:
        load_weights(network, "imagenet")
    except UserError as error:
        if isinstance(error.__cause__, UnreachableError):
            offline = (
                f"{place}efficientnet_lite0 works without a network (pip brings its weights), a run directory too."
            )
            raise UserError(f"{error.__cause__} {offline}") from error
        raise
    return TrainedModel(name, network, None, size, weights.mean, weights.std, 3, "squash", weights.interpolation)


def _of_run(run: RunDirectory, image_size: int | None) -> TrainedModel:
    opened = open_run(run)
    facts = opened.data_facts
    size = (image_size, image_size) if image_size else facts.image_size
    network, has_head = opened.network_for(size)
    return TrainedModel(
        str(run.path),
        network,
        facts.classes if has_head else None,
        size,
        facts.mean,
        facts.std,
        facts.channels,
        cast("Resize", facts.resize),
        cast("Interpolation", facts.interpolation),
        cast("Channels", facts.source_channels or facts.channels),
    )
