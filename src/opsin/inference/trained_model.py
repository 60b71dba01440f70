"""Load a trained model by name, and compute its outputs for teachers and embeddings."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.cache.image_store import Store, decode_rows, store_key
from opsin.data.decode import decode_image
from opsin.data.fit import Fit, Interpolation, Resize
from opsin.data.preprocessing import Preprocess
from opsin.data.subset import Subset
from opsin.data.types import Channels, Indices
from opsin.errors import UserError, did_you_mean
from opsin.inference.opened_network import open_network
from opsin.models import Network, load_weights
from opsin.models.weights import KINDS, UnreachableError, known_weights
from opsin.runs.checkpoint_files import CHOOSE_OTHER, choose_checkpoint
from opsin.runs.directory import RunDirectory, newest_usable
from opsin.runs.garbage_collection import resume_collection
from opsin.runs.home import real_path
from opsin.runs.result import ImageFormat, Settings
from opsin.training.feature_extraction import Extractor, extract
from opsin.training.permitted_targets import NETWORKS

if TYPE_CHECKING:
    import lightning as L

NAMED = sorted(set(KINDS["imagenet"]) - {"timm"})
"""Networks whose ImageNet weights follow from their name."""


@dataclass(frozen=True)
class TrainedModel:
    """A network with trained weights, and the image format that it expects.

    Attributes:
        name: A run directory, or the name of a network.
        network: The network with its weights.
        classes: Names of the classes of its logits; None if it has no head for the classes of a run.
        size: (height, width) of its input, in pixels.
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel, for pixels in [0, 1].
        channels: Number of input channels.
        resize: Resize method: `squash`, `crop` or `letterbox`.
        interpolation: Interpolation of the resize.
        source_channels: Channels that files are decoded to; 1 if the model was trained on gray images.
        temperature: Divisor of its logits before the softmax.
        settings: Recorded settings of its run; None if it has no run.
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
    temperature: float = 1.0
    settings: Settings | None = None

    @property
    def fit(self) -> Fit:
        """The size of its input, and how images are brought to it."""
        return Fit(self.size, self.resize, self.interpolation)

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of uint8 pixels `(N, C, H, W)`."""
        return Preprocess(self.mean, self.std, self.channels)

    def read(self, image: Path | bytes) -> NDArray[np.uint8]:
        """Decode an image file, or its bytes, to uint8 `(H, W, source_channels)` with the evaluation transform.

        Raises:
            BadImage: The image cannot be decoded.
        """
        return decode_image(image, self.source_channels, self.fit)

    @property
    def image_format(self) -> ImageFormat:
        """The images that the network expects."""
        return ImageFormat(self.size, self.mean, self.std, self.channels, self.resize, self.interpolation)

    def extractor(self, trainer: "L.Trainer", *, logits: bool = False) -> Extractor:
        """Return an extractor of embeddings on the device and in the precision of a trainer.

        Args:
            trainer: Determines device and precision.
            logits: Extract the logits too.
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

    def outputs(self, subset: Subset, extractor: Extractor, cache_dir: Path) -> FeatureSubset:
        """Return the outputs `(N, D)` for the images of a subset; compute those that are missing in the cache.

        Images pass the evaluation transform at the input size of this model, for any size of the subset.

        Args:
            subset: The images.
            extractor: An extractor of this model.
            cache_dir: Folder of all feature stores.

        Raises:
            UserError: The images are in color but the network takes gray images, or the cache cannot be written.
        """
        channels = subset.stores[0].shape[2]
        if channels not in (1, self.channels):
            kind = "gray images" if self.channels == 1 else f"images of {self.channels} channels"
            raise UserError(f"{self.name} takes {kind}, but the given images have {channels} channels")
        preprocess = self.preprocess

        def images(store: Store, rows: Indices) -> Tensor:
            is_same = store.fingerprint == self._key(store)
            pixels = store.take(rows) if is_same else decode_rows(store, rows, self.fit)
            return preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(extractor.device))

        # The key covers the images at the size of this model, so runs with other image sizes share the outputs.
        return extract(
            subset,
            extractor,
            [images],
            [asdict(self.image_format)],
            cache_dir=cache_dir,
            fingerprint=self._key,
        )

    def _key(self, store: Store) -> str:
        return store_key(store.images, *self.fit)


def load_trained_model(
    name: str, image_size: int | None = None, option: str = "", checkpoint: str = "best"
) -> TrainedModel:
    """Load a trained model: a run directory, or a network with ImageNet weights.

    Args:
        name: The run directory, or the name of the network.
        image_size: Side of the input in pixels. None: the size used in training.
        option: The option that gave the name, such as `model.teacher=`, for the message.
        checkpoint: The weights of a run: `best`, `last`, or the path of a checkpoint.

    Raises:
        UserError: Neither exists, the checkpoint is damaged, or the weights cannot be downloaded.
    """
    resume_collection()
    run = RunDirectory(real_path(name))
    if run.config.is_file():
        return _of_run(run, image_size, checkpoint, "" if option else CHOOSE_OTHER)
    if checkpoint != "best":
        raise UserError(f"checkpoint {checkpoint}: {name} is not a run directory, so it has no checkpoints")
    if not option and len(Path(name).parts) > 1:
        RunDirectory.of(name)  # refuses it: no network has such a name
    weights = known_weights(name).get("imagenet") if name in NAMED else None
    if weights is None:
        hint = did_you_mean(name, NAMED, option) or "."
        runs = newest_usable()
        newest = f" The newest runs with a model are {', '.join(runs)}." if runs else ""
        raise UserError(
            f"{option}{name} is neither a run directory (it has no {run.config.name}) nor a network with ImageNet "
            f"weights{hint} Such networks are {', '.join(NAMED)}.{newest}"
        )
    size = (image_size, image_size) if image_size else weights.size
    network = NETWORKS.resolve(f"opsin.models.{name}")(num_logits=1, image_size=size)
    try:
        load_weights(network, "imagenet")
    except UserError as error:
        if isinstance(error.__cause__, UnreachableError):
            offline = f"{option}efficientnet_lite0 (weights installed by pip) and run directories work offline."
            raise UserError(f"{error.__cause__} {offline}") from error
        raise
    return TrainedModel(name, network, None, size, weights.mean, weights.std, 3, "squash", weights.interpolation)


def _of_run(run: RunDirectory, image_size: int | None, checkpoint: str, advice: str) -> TrainedModel:
    opened = open_network(run)  # first: a run of another version is refused before its files are read
    opened = replace(opened, checkpoint=str(choose_checkpoint(run, checkpoint, advice)))
    facts = opened.data_facts
    size = (image_size, image_size) if image_size else facts.image_size
    network, has_head = opened.network_for(size)
    result = run.read_result()
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
        facts.source_channels or facts.channels,
        result.temperature,
        result.settings,
    )
