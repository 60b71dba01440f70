"""The feature cache: stages that never train are computed once per image, and training runs only what can change."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from opsin.data import Augmentation, ImageDataModule
from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.cache.image_store import Store
from opsin.data.loader.batch_loader import batch_key
from opsin.data.subset import Subset
from opsin.data.types import Split
from opsin.errors import UserError
from opsin.models import Network
from opsin.training.feature_extraction import Extractor, View, extract

Indices = NDArray[np.int64]

EXACT = ("32-true", "bf16-mixed", "16-mixed")
"""Precisions that leave the weights in float32, so that the network can be used before the trainer takes it."""


LARGE, ROOMY = 4, 2**31
"""Features so many times as large as the pixels, and of so many bytes in all, take longer to read than to compute."""


@dataclass(frozen=True)
class FeatureCache:
    """Whether and how frozen features are cached.

    Attributes:
        mode: `auto` caches where the first stages never train, and says why where it does not.
        views: Augmented views of each training image to cache, of which every epoch draws one; null: the
            cache steps aside where there is augmentation.
    """

    mode: Literal["auto", "off"] = "auto"
    views: Annotated[int, Field(ge=1)] | None = None

    def serve(self, data: ImageDataModule, network: Network, never_trained: Sequence[str], trainer: L.Trainer) -> str:
        """Let the datamodule serve features in place of training and validation images, if that can be.

        The test images are not read; they will go through the whole network.

        Args:
            data: Set up for fit.
            network: With its weights.
            never_trained: The stages that stand still through the whole run.
            trainer: Tells device and precision.

        Returns:
            What was done, or why nothing was.
        """
        step = cacheable_step(network, never_trained)
        if reason := self._reason(data, network, step, trainer):
            return f"off: {reason}"
        assert step is not None
        extractor = Extractor(
            network,
            (step,),
            trainer.strategy.root_device,
            trainer.strategy.precision_plugin.forward_context,
            str(trainer.precision),
        )
        views = self.views or 0 if _augments(data) else 0
        images, store = len(data.subset("train")) + len(data.subset("val")), data.subset("train").stores[0]
        one = extractor(_plain(data, extractor)(store, np.zeros(1, np.int64))).astype(np.float16).nbytes
        size, times = one * (images + len(data.subset("train")) * max(0, views - 1)), one / math.prod(store.shape)
        if times > LARGE and size > ROOMY:
            return f"off: {step} of these images takes {size / 1e9:.1f} GB, {times:.0f} times their pixels"
        try:
            parts: dict[Split, FeatureSubset] = {
                "train": _extract(data, extractor, data.subset("train"), views),
                "val": _extract(data, extractor, data.subset("val"), 0),
            }
        except UserError as error:
            return f"off: {error}"
        data.use_features(parts, step)
        told = f"{step} of {images:,} images, {size / 1e6:,.1f} MB"
        return told + (f", {views} augmented views for training" if views else "")

    def _reason(self, data: ImageDataModule, network: Network, step: str | None, trainer: L.Trainer) -> str | None:
        if self.mode == "off":
            return "feature_cache=off"
        if step is None:
            return f"{next(iter(network.stages))} trains, and it comes first"
        if str(trainer.precision) not in EXACT:
            return f"trainer.precision={trainer.precision} changes the weights themselves"
        if trainer.limit_train_batches != 1.0 or isinstance(trainer.limit_train_batches, int):
            return "trainer.limit_train_batches takes only some of the images"
        if _augments(data):
            if self.views is None:
                return "every epoch's images are augmented anew; feature_cache.views=8 would draw from 8 views of each"
            if not isinstance(data.augmentation, Augmentation):
                return f"{type(data.augmentation).__name__} is not Opsin's, so that its values are not known"
            if data.augmentation.mixes:
                return "the augmentation mixes images with their targets"
        return None


def _augments(data: ImageDataModule) -> bool:
    augmentation = data.augmentation
    return augmentation.active if isinstance(augmentation, Augmentation) else augmentation is not None


def cacheable_step(network: Network, never_trained: Sequence[str]) -> str | None:
    """The last step of the longest run, from the first stage on, that stands still; None: the first one trains.

    Where no stage trains, it goes on into the head up to its first parameter.
    """
    step = None
    for name in network.stages:
        if name not in never_trained:
            return step
        step = name
    return network.embedding_step


def _extract(data: ImageDataModule, extractor: Extractor, part: Subset, views: int) -> FeatureSubset:
    """The features of a split: of its images as they are, or of so many augmented views of each."""
    facts: dict[str, Any] = {
        "mean": list(data.preprocess.mean),
        "std": list(data.preprocess.std),
        "channels": data.channels,
    }
    if views:
        # What is drawn for an image depends on those it is computed with: these features serve this very split only.
        split = hashlib.blake2b(part.index.tobytes(), digest_size=16).hexdigest()
        facts |= {"augmentation": str(data.augmentation), "seed": data.seed, "split": split}
    return extract(
        part,
        extractor,
        [_augmented(data, extractor, view) for view in range(views)] or [_plain(data, extractor)],
        [facts | {"view": view} for view in range(views)] or [facts],
        cache_dir=data.features_dir,
    )


def _plain(data: ImageDataModule, extractor: Extractor) -> View:
    return lambda store, rows: data.preprocess(_pixels(store, rows, extractor))


def _augmented(data: ImageDataModule, extractor: Extractor, view: int) -> View:
    @torch.no_grad()
    def images(store: Store, rows: Indices) -> Tensor:
        assert data.augmentation is not None
        unit = data.preprocess.to_unit_range(_pixels(store, rows, extractor))
        targets = torch.from_numpy(store.targets[rows]).to(extractor.device)
        changed, _ = data.augmentation(unit, targets, batch_key(data.seed, view, int(rows[0]), 0))
        return data.preprocess.normalize(changed)

    return images


def _pixels(store: Store, rows: Indices, extractor: Extractor) -> Tensor:
    return torch.from_numpy(store.take(rows)).permute(0, 3, 1, 2).to(extractor.device)
