"""The teacher of a run: a network that has learned already, and what it makes of the images, computed once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsin import build
from opsin.check import resolve_target
from opsin.config import Composed
from opsin.data import Augmentation, ImageDataModule
from opsin.data.features import FeaturePart
from opsin.data.sources.base import Split
from opsin.data.store import Store, decode_again
from opsin.data.transform import Interpolation, Preprocess, Resize
from opsin.distillation import Distillation, DistillationWeights
from opsin.errors import UserError
from opsin.extraction import Extractor, extract
from opsin.models import Network, imagenet_weights, load_weights
from opsin.rundir import RunDirectory

Indices = NDArray[np.int64]

SPLITS: tuple[Split, Split] = ("train", "val")
BLOCK = 64
"""Images that a teacher sees at once."""


@dataclass(frozen=True)
class Teacher:
    """A network that has learned, and the images it wants.

    Attributes:
        network: With its weights.
        classes: What its logits mean; None: classes of its own, such as ImageNet's.
        size: (height, width) of its images, in pixels.
        mean: Of its pixels in [0, 1], per channel.
        std: Likewise.
        channels: Of its images.
        resize: How images are brought to its size.
        interpolation: Likewise.
    """

    network: Network
    classes: Sequence[str] | None
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    resize: Resize
    interpolation: Interpolation

    def facts(self) -> dict[str, Any]:
        """All that decides its input beside the images."""
        return {name: value for name, value in vars(self).items() if name not in ("network", "classes")}


def distillation(plan: build.Plan, data: ImageDataModule, network: Network, trainer: L.Trainer) -> Distillation | None:
    """The loss beside `model.teacher`, whose outputs the datamodule serves from then on; None: there is no teacher.

    Raises:
        UserError: The teacher does not exist, or does not go with the data or with what is wanted of it.
    """
    name = plan["model"].beside.get("teacher")
    if name is None:
        return None
    if isinstance(data.augmentation, Augmentation) and data.augmentation.mixes:
        raise UserError(f"model.teacher={name} has seen every image whole: set augmentation.mixup=0 and cutmix=0")
    weights: DistillationWeights = plan["distillation"].build()
    teacher = find_teacher(name, weights.image_size)
    if weights.logits and (teacher.classes is None or list(teacher.classes) != list(data.source.classes)):
        raise UserError(
            f"distillation.logits={weights.logits:g}: the teacher {name} tells other classes apart than those of "
            f"{data.source.name}; set distillation.logits=0 to learn its embeddings alone"
        )
    taught = {split: _taught(teacher, data, split, trainer, logits=weights.logits > 0) for split in SPLITS}
    data.serve_teaching(taught)
    size = _embedding_size(teacher.network, teacher.channels, teacher.size)
    own_size = _embedding_size(network, data.channels, data.image_size)
    return Distillation(weights, own_size, taught["train"].mean()[:size])


def find_teacher(name: str, image_size: int | None = None) -> Teacher:
    """A teacher by its name: a run directory, or a network of Opsin's that has ImageNet weights.

    Args:
        name: Of one or the other.
        image_size: Side of its images in pixels; None: that of its weights.

    Raises:
        UserError: There is neither, or its weights cannot be had.
    """
    run = RunDirectory(Path(name))
    if run.config.exists():
        return _from_run(run, image_size)
    function = resolve_target(f"opsin.models.{name}")
    weights = imagenet_weights(function)
    if weights is None:
        raise UserError(f"model.teacher={name} has no ImageNet weights; take efficientnet_lite0, or a run directory")
    size = (image_size, image_size) if image_size else weights.size
    network = function(num_logits=1, image_size=size)
    load_weights(network, "imagenet")
    return Teacher(network, None, size, weights.mean, weights.std, 3, "squash", weights.interpolation)


def _from_run(run: RunDirectory, image_size: int | None) -> Teacher:
    plan, recorded = build.plan(Composed.load(run)), build.recorded_data(run)
    size = (image_size, image_size) if image_size else tuple(recorded["image_size"])
    loss = plan["loss"].build(class_counts=recorded["class_counts"]["train"])
    network = plan["model"].build(num_logits=loss.num_logits, in_channels=recorded["channels"], image_size=size)
    load_weights(network, str(run.path))
    return Teacher(
        network,
        recorded["classes"],
        size,
        tuple(recorded["mean"]),
        tuple(recorded["std"]),
        recorded["channels"],
        recorded["resize"],
        recorded["interpolation"],
    )


def _taught(teacher: Teacher, data: ImageDataModule, split: Split, trainer: L.Trainer, *, logits: bool) -> FeaturePart:
    steps = [teacher.network.embedding_step, *([list(teacher.network.steps())[-1]] if logits else [])]
    extractor = Extractor(
        teacher.network,
        tuple(steps),
        trainer.strategy.root_device,
        trainer.strategy.precision_plugin.forward_context,
        str(trainer.precision),
        vectors=True,
    )
    preprocess = Preprocess(teacher.mean, teacher.std, teacher.channels)

    def images(store: Store, rows: Indices) -> Tensor:
        pixels = decode_again(store, rows, teacher.size, teacher.resize, teacher.interpolation)
        return preprocess(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(extractor.device))

    return extract(data.part(split), extractor, [images], [teacher.facts()], cache_dir=data.features_dir, block=BLOCK)


def _embedding_size(network: Network, channels: int, size: tuple[int, int]) -> int:
    training = network.training
    with torch.inference_mode():
        device = next(network.parameters()).device
        embedding = network.eval().embed(torch.zeros(1, channels, *size, device=device))
    network.train(training)
    return embedding.shape[1]
