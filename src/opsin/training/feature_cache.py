"""The feature cache: the outputs of frozen stages are computed once per image, and training runs only the rest."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from opsin.data.augmentation.augmentation import Augmentation
from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.cache.image_store import Store
from opsin.data.loader.batch_loader import batch_key
from opsin.data.subset import Subset
from opsin.data.types import Indices, Split
from opsin.errors import UserError
from opsin.models import Network
from opsin.training.feature_extraction import Extractor, View, extract

if TYPE_CHECKING:
    import lightning as L

    from opsin.data import ImageDataModule

EXACT = ("32-true", "bf16-mixed", "16-mixed")
"""Precisions with float32 weights, for which the network can be used before the trainer sets it up."""

LARGE, ROOMY = 4, 2**31
"""Largest ratio of feature bytes to pixel bytes, and largest total in bytes. If both are exceeded, nothing is cached,
because reading features would be slower than computing them."""

AUTO_VIEWS = 8
"""Views of each image with `views: auto`. The comparison with fresh views in every epoch is in docs/benchmarks.md."""

AUTO_EPOCHS = 2 * AUTO_VIEWS
"""Shortest run for which `views: auto` stores views: shorter ones would save less than half of the time."""


@dataclass(frozen=True)
class FeatureCache:
    """Options of the feature cache.

    Attributes:
        mode: `auto` caches the outputs of the first stages if they never train and no other reason prevents it;
            otherwise it reports the reason. `off` never caches.
        views: Number of augmented views of each training image to cache; every epoch uses one, in turn. A view is
            computed in the first epoch that uses it. `auto`: `AUTO_VIEWS` if only the head trains, for `AUTO_EPOCHS` or
            more; otherwise no cache with augmentation.
    """

    mode: Literal["auto", "off"] = "auto"
    views: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"

    def apply(
        self, data: "ImageDataModule", network: Network, never_trained: Sequence[str], trainer: "L.Trainer"
    ) -> str:
        """Replace training and validation images in the datamodule by features, if possible.

        The test images are not cached; they go through the whole network.

        Args:
            data: The datamodule after `setup("fit")`.
            network: The network with its weights.
            never_trained: The stages that stay frozen during the whole run.
            trainer: The trainer, which has the device and the precision.

        Returns:
            A description of the cache, or the reason why there is none.
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
        views = 0 if not _augments(data) else AUTO_VIEWS if self.views == "auto" else self.views
        several = trainer.world_size > 1  # then all views are computed now, before training wraps the network
        images, store = len(data.subset("train")) + len(data.subset("val")), data.subset("train").stores[0]
        one = extractor(_plain(data, extractor)(store, np.zeros(1, np.int64))).astype(np.float16).nbytes
        size, times = one * (images + len(data.subset("train")) * max(0, views - 1)), one / math.prod(store.shape)
        if times > LARGE and size > ROOMY:
            return f"off: {step} of these images takes {size / 1e9:.1f} GB, {times:.0f} times their pixels"
        try:
            features: dict[Split, FeatureSubset] = {
                "train": _extract(data, extractor, data.subset("train"), views, several),
                "val": _extract(data, extractor, data.subset("val"), 0),
            }
        except UserError as error:
            return f"off: {error}"
        data.use_features(features, step)
        text = f"{step} of {images:,} images, {size / 1e6:,.1f} MB"
        return text + (f", {views} augmented views for training" if views else "")

    def _reason(self, data: "ImageDataModule", network: Network, step: str | None, trainer: "L.Trainer") -> str | None:
        if self.mode == "off":
            return "feature_cache=off"
        if step is None:
            return f"{next(iter(network.stages))} is the first stage, and it trains"
        if str(trainer.precision) not in EXACT:
            return f"trainer.precision={trainer.precision} changes the type of the weights"
        if trainer.limit_train_batches != 1.0 or isinstance(trainer.limit_train_batches, int):
            return "trainer.limit_train_batches uses only some of the images"
        if _augments(data):
            if type(data.augmentation) is not Augmentation:  # a subclass may change images in its own way
                name = type(data.augmentation).__name__
                return f"{name} is not an augmentation of Opsin, so its parameters are unknown"
            if data.augmentation.mixes:
                return "the augmentation mixes images with their targets"
            if self.views == "auto":
                return _why_no_views(network, step, trainer.max_epochs)
        return None


def _why_no_views(network: Network, step: str, epochs: int | None) -> str | None:
    """Return why `views: auto` stores no views of augmented images, or None."""
    reason = "images are augmented in every epoch"
    if step in network.stages:
        reason += ", and stages train on them"
    elif epochs is None or epochs < AUTO_EPOCHS:
        reason += f", and stored views save time from {AUTO_EPOCHS} epochs on"
    else:
        return None
    return f"{reason}; feature_cache.views={AUTO_VIEWS} would store {AUTO_VIEWS} views of each image"


def _augments(data: "ImageDataModule") -> bool:
    augmentation = data.augmentation
    return augmentation.active if isinstance(augmentation, Augmentation) else augmentation is not None


def cacheable_step(network: Network, never_trained: Sequence[str]) -> str | None:
    """Return the last step before the first stage that trains; None if the first stage trains.

    If no stage trains, it is the last step before the first part of the head with parameters or dropout.
    """
    step = None
    for name in network.stages:
        if name not in never_trained:
            return step
        step = name
    return network.embedding_step


def _extract(
    data: "ImageDataModule", extractor: Extractor, subset: Subset, views: int, every_view: bool = False
) -> FeatureSubset:
    """Return the features of a split: of the images, or of augmented views of each image."""
    facts: dict[str, Any] = {
        "mean": list(data.preprocess.mean),
        "std": list(data.preprocess.std),
        "channels": data.channels,
    }
    if views:
        # The augmentation of an image depends on its batch, so these features are valid for this split only.
        split = hashlib.blake2b(subset.index.tobytes(), digest_size=16).hexdigest()
        assert type(data.augmentation) is Augmentation
        facts |= {"augmentation": data.augmentation.settings(), "seed": data.seed, "split": split}
        if len(subset.stores) > 1:  # the random numbers depend on the store too
            facts["stores"] = len(subset.stores)
    return extract(
        subset,
        extractor,
        [_augmented(data, extractor, view, subset.stores) for view in range(views)] or [_plain(data, extractor)],
        [facts | {"view": view} for view in range(views)] or [facts],
        cache_dir=data.features_dir,
        every_view=every_view,
    )


def _plain(data: "ImageDataModule", extractor: Extractor) -> View:
    return lambda store, rows: data.preprocess(_pixels(store, rows, extractor))


def _augmented(data: "ImageDataModule", extractor: Extractor, view: int, stores: Sequence[Store]) -> View:
    """Return the augmented images of a view; the rows of each store have random numbers of their own."""

    @torch.no_grad()
    def images(store: Store, rows: Indices) -> Tensor:
        assert data.augmentation is not None
        unit = data.preprocess.to_unit_range(_pixels(store, rows, extractor))
        targets = torch.from_numpy(store.targets[rows]).to(extractor.device)
        key = batch_key(data.seed, view, int(rows[0]), stores.index(store))
        changed, _ = data.augmentation(unit, targets, key)
        return data.preprocess.normalize(changed)

    return images


def _pixels(store: Store, rows: Indices, extractor: Extractor) -> Tensor:
    return torch.from_numpy(store.take(rows)).permute(0, 3, 1, 2).to(extractor.device)
