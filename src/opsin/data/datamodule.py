"""The one datamodule: any source of labelled images, divided, decoded once, and served in batches."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from opsin.data.cache.feature_store import FeaturePart
from opsin.data.cache.image_store import OnBadImage, Store, open_store, store_key
from opsin.data.cache.uncached_images import UncachedStore
from opsin.data.loader.batch_loader import Batch, BatchLoader
from opsin.data.loader.fetcher import BatchFetcher, to_device
from opsin.data.loader.samplers import Sampler
from opsin.data.options import DataOptions
from opsin.data.preprocessing import Interpolation, Preprocess, Resize
from opsin.data.shards.prefetch import check_folds, streaming
from opsin.data.shards.sharded_images import ShardImages
from opsin.data.shards.sharded_store import ShardStore
from opsin.data.source import Source, Split
from opsin.data.statistics import channel_statistics
from opsin.data.subset import SplitOptions, Subset, split_train
from opsin.errors import UserError

_STAGE: dict[Split, str] = {"train": "fit", "val": "validate", "test": "test"}
_EVAL_PIXELS = 2**21  # of a default evaluation batch: bounds the activations, not the speed


class ImageDataModule(L.LightningDataModule):
    """Serve the images of a source to a trainer, or to a notebook without one.

    What the source lacks of train, val and test is carved from its training images, seeded and stratified:
    test first, then val. Validation and test images are only fitted to size and normalised, whatever the
    augmentation. The images of a test split that the source brings are not read before the stage `test`.

    Images are decoded once, into a store on the disk; those in shards are read as a stream. Nothing else differs.

    Args:
        source: The dataset: its facts and its readers.
        options: How the images are prepared, split and batched. None: the defaults.
        augmentation: Applied to training batches on the device: `(images in [0, 1], targets, key)` to images
            and targets. None: training images are only normalized.
        seed: Seed of the order of the batches and of the augmentation.
        channels: Channels of the network's input; 3 repeats the channel of a gray source. None: the source's.

    Attributes:
        keeps_decoded: Whether decoded images are kept on the disk. Who reads each once sets this to False at once.

    Raises:
        UserError: Values that contradict each other or the source.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions | None = None,
        *,
        augmentation: nn.Module | None = None,
        seed: int = 0,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        options = options or DataOptions()
        self.source = source
        self.augmentation = augmentation
        self.seed = seed
        self.cache_dir = Path(options.data_dir) / ".opsin" / "stores"
        self.features_dir = self.cache_dir.with_name("features")
        self.image_size = _pair(source.size if options.image_size is None else options.image_size)
        self.channels = source.channels if channels is None else channels
        if self.channels < source.channels:
            raise UserError(f"channels={channels}: the images of '{source.name}' have {source.channels}.")
        self._mean = self._per_channel("mean", source.mean if options.mean is None else options.mean)
        self._std = self._per_channel("std", source.std if options.std is None else options.std)
        if self._std is not None and min(self._std) <= 0:
            raise UserError(f"std={options.std}: a standard deviation to divide by is above 0.")
        self.base_batch_size = options.base_batch_size
        self.batch_size = options.base_batch_size if options.batch_size == "auto" else options.batch_size
        self._eval_batch_size = options.eval_batch_size
        self.sampler: Sampler = options.sampler
        self.division = SplitOptions(
            val_fraction=options.val_fraction,
            test_fraction=options.test_fraction,
            train_fraction=options.train_fraction,
            num_folds=options.num_folds,
            fold=options.fold,
            seed=seed if options.split_seed is None else options.split_seed,
        )
        self.resize: Resize = options.resize
        self.interpolation: Interpolation = options.interpolation or "bilinear"
        self.on_bad_image: OnBadImage = options.on_bad_image
        self.keeps_decoded = True
        self.parts: dict[Split, Subset] = {}
        self._stores: dict[Split, Store] = {}
        self._serving = BatchFetcher(options.on_device)
        self._preprocess: Preprocess | None = None

    def __str__(self) -> str:
        """One line; Lightning's own would look for the length of each loader's dataset."""
        height, width = self.image_size
        return f"ImageDataModule({self.source.name}, {self.channels}x{height}x{width}, batch_size={self.batch_size})"

    def prepare_data(self) -> None:
        """Decode what the coming stage needs, or everything without a trainer. Does nothing the second time."""
        function = self.trainer.state.fn if self.trainer is not None else None
        for split in self._needed(None if function is None else function.value):
            self._open(split)

    def setup(self, stage: str | None = None) -> None:
        """Open the stores that a stage needs, and divide the images; `None` is every stage."""
        needed = self._needed(stage)
        if "train" in needed and "train" not in self.parts:
            parts = split_train(
                self._open("train"),
                self._open("val") if "val" in needed else None,
                has_test="test" in self.source.splits,
                division=self.division,
                classes=self.source.classes,
            )
            for split, part in parts.items():
                self._add(split, part)
            check_folds(parts["train"], self.division)
        if "test" in needed and "test" not in self.parts:
            self._add("test", Subset.whole(self._open("test")))

    @property
    def eval_batch_size(self) -> int:
        """Images of a validation or test batch, over all devices together."""
        if self._eval_batch_size is not None:
            return self._eval_batch_size
        height, width = self.image_size
        return max(self.batch_size, 1, min(256, _EVAL_PIXELS // (height * width)))

    @property
    def preprocess(self) -> Preprocess:
        """What makes the network's input of uint8 pixels ``(B, C, H, W)``: the same for val, test and prediction."""
        if self._preprocess is None:
            mean, std = self._mean, self._std
            if mean is None or std is None:
                measured_mean, measured_std = channel_statistics(self.part("train"), self.cache_dir)
                mean, std = mean or measured_mean, std or measured_std
            self._preprocess = Preprocess(mean, std, self.channels)
        return self._preprocess

    def part(self, split: Split) -> Subset:
        """The images of a split; opens them where that has not been done."""
        if split not in self.parts:
            self.setup(_STAGE[split])
        return self.parts[split]

    def serve_features(self, features: Mapping[Split, FeaturePart], after: str) -> None:
        """Serve cached features instead of the pixels of some splits.

        Args:
            features: Of each split that is served so, for all its images.
            after: The step of the network whose output they are.
        """
        self._serving.features, self._serving.after = dict(features), after

    def serve_teaching(self, teaching: Mapping[Split, FeaturePart]) -> None:
        """Serve what a teacher makes of the images of some splits beside them."""
        self._serving.teaching = dict(teaching)

    def forget_served(self) -> None:
        """Hold no images on a device any more; those of a copy of this datamodule stay."""
        self._serving = self._serving.holding_nothing()

    def facts(self) -> dict[str, Any]:
        """What a result or a prediction has to know of the data, in plain values.

        The test images of the source count as they are listed until the stage `test` has decoded them.
        """
        self.setup("fit")
        splits: tuple[Split, ...] = ("train", "val", "test")
        targets = {s: (self.parts[s] if s in self.parts else self.source.splits[s]).targets for s in splits}
        classes = self.source.classes
        return {
            "name": self.source.name,
            "classes": list(classes),
            "counts": {s: len(targets[s]) for s in splits},
            "class_counts": {s: np.bincount(targets[s], minlength=len(classes)).tolist() for s in splits},
            "origin": {s: self.parts[s].origin if s in self.parts else "given" for s in splits},
            "bad_images": sum(len(store.bad) for store in self._stores.values()),
            "bad_image_reports": [str(store.report) for store in self._stores.values() if store.bad and store.report],
            "fingerprint": self._fingerprint(),
            "image_size": list(self.image_size),
            "channels": self.channels,
            "source_channels": self.source.channels,
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "resize": self.resize,
            "interpolation": self.interpolation,
        }

    def train_dataloader(self) -> BatchLoader:
        """Training batches, from wherever the trainer stands in its epoch."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        """Every validation image once, in order."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Every test image once, in order."""
        return self._loader("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the pixels as bytes, and the targets; `index` stays."""
        if not isinstance(batch, Batch):  # Lightning's model summary sends its example through here too
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Make the network's input of the pixels: augmented in training steps, and only there."""
        if not isinstance(batch, Batch):
            return batch
        training = self.trainer is not None and self.trainer.training
        return self.finish(batch, augment=training)

    @torch.no_grad()
    def finish(self, batch: Batch, *, augment: bool) -> Batch:
        """The batch with float32 images, normalised, and augmented before if asked (and if there is a way to).

        Cached features are what the network made of such images, and only become float32.
        """
        if batch.after is not None:
            return batch._replace(images=batch.images.float())
        if not augment or self.augmentation is None:
            return batch._replace(images=self.preprocess(batch.images))
        images, targets = self.augmentation(self.preprocess.unit(batch.images), batch.targets, batch.key)
        return batch._replace(images=self.preprocess.normalise(images), targets=targets)

    def _loader(self, split: Split) -> BatchLoader:
        part, trainer, training = self.part(split), self.trainer, split == "train"
        targets = part.targets
        return BatchLoader(
            partial(self._serving.fetch, split, part, targets, self._device),
            targets,
            self.batch_size if training else self.eval_batch_size,
            training=training,
            sampler=self.sampler,
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            position=self._progress if trainer is not None and trainer.training else None,
            streaming=streaming(part),
        )

    def _device(self) -> torch.device:
        """Where the network runs."""
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def _progress(self) -> tuple[int, int]:
        """The trainer's epoch and the batches of it that are done: after a resume too."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        return self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready

    def _needed(self, stage: str | None) -> list[Split]:
        """The splits of the source that must be open for a stage."""
        measured = self._mean is None or self._std is None
        carved = "test" not in self.source.splits
        splits: list[Split] = []
        if stage in (None, "fit", "validate") or measured or (carved and stage == "test"):
            splits += ["train", "val"]
        if stage in (None, "test"):
            splits += ["test"]
        return [split for split in splits if split in self.source.splits]

    def _open(self, split: Split) -> Store:
        if split not in self._stores:
            images, fit = self.source.splits[split], (self.image_size, self.resize, self.interpolation)
            if isinstance(images, ShardImages):
                self._stores[split] = ShardStore(images, *fit)
            elif not self.keeps_decoded:
                self._stores[split] = UncachedStore(images, *fit, on_bad_image=self.on_bad_image)
            else:
                self._stores[split] = open_store(images, *fit, cache_dir=self.cache_dir, on_bad_image=self.on_bad_image)
        return self._stores[split]

    def _add(self, split: Split, part: Subset) -> None:
        """Take a part on, unless a class is missing that must not be: carving alone may leave one out."""
        found = np.bincount(part.targets, minlength=len(self.source.classes))
        missing = [name for name, count in zip(self.source.classes, found, strict=True) if not count]
        if missing and part.origin == "given":
            names = ", ".join(f"'{name}'" for name in missing)
            bad = [
                f" Some cannot be decoded, see {store.report}." for store in part.stores if store.report and store.bad
            ]
            raise UserError(f"'{self.source.name}' has no {split} image of class {names}.{''.join(bad)}")
        self.parts[split] = part

    def _per_channel(self, name: str, values: float | tuple[float, ...] | None) -> tuple[float, ...] | None:
        if values is None:
            return None
        values = (values,) if isinstance(values, float | int) else tuple(values)
        if len(values) not in (1, self.channels):
            raise UserError(f"{name}={list(values)}: give one number, or one per channel ({self.channels}).")
        return values

    def _fingerprint(self) -> str:
        """One digest of the pixels of all splits, their targets, their order and their division."""
        digest = hashlib.blake2b("\0".join(self.source.classes).encode(), digest_size=16)
        for split in sorted(self.source.splits):
            key = store_key(self.source.splits[split], self.image_size, self.resize, self.interpolation)
            digest.update(f"{split} {key}".encode())
        for split in ("train", "val"):
            digest.update(self.parts[split].index.tobytes())
            for store in self.parts[split].stores:
                digest.update(store.kept.tobytes())
        return digest.hexdigest()


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
