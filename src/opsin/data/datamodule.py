"""The one datamodule: any dataset of labeled images, split, decoded once, and loaded in batches."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from opsin.data.augmentation.augmentation import Augmentation
from opsin.data.available_memory import check_batch_memory
from opsin.data.cache.feature_store import FeatureSubset
from opsin.data.cache.files import cache_folder
from opsin.data.fit import Interpolation, Resize
from opsin.data.image_splits import ImageSplits
from opsin.data.loader.batch_loader import Batch, BatchLoader
from opsin.data.loader.fetcher import BatchFetcher, to_device
from opsin.data.loader.samplers import Sampler
from opsin.data.normalization import ExpectedInput, choose_image_size, choose_interpolation, choose_mean_std
from opsin.data.options import DataOptions, default_eval_batch_size
from opsin.data.preprocessing import Preprocess
from opsin.data.shards.prefetch import streaming
from opsin.data.source import Source
from opsin.data.statistics import channel_statistics
from opsin.data.subset import Subset
from opsin.data.types import Split
from opsin.errors import UserError

_LOG = logging.getLogger(__name__)
_STAGE: dict[Split, str] = {"train": "fit", "val": "validate", "test": "test"}


class ImageDataModule(L.LightningDataModule):
    """Load the images of a dataset for a trainer, or for a notebook without one.

    If the dataset has no val or test, they are split off its training images, seeded and stratified: test first,
    then val. Validation and test images are only resized and normalized, never augmented. A test split that the
    dataset provides is not read before the stage `test`.

    Images are decoded once, into a store on the disk; images in shards are read as a stream.

    Args:
        source: The dataset.
        options: Options for preparing, splitting and batching the images. None: the defaults.
        expected_input: Input that pretrained weights expect, for options that are None. None: there are no weights.
        augmentation: Applied to training batches on the device: `(images in [0, 1], targets, key)` to images
            and targets. None: training images are only normalized.
        seed: Seed of the order of the batches and of the augmentation.
        channels: Channels of the network's input; 3 repeats the channel of gray images. None: as in the dataset.

    Attributes:
        splits: The splits of the dataset.

    Raises:
        UserError: Options contradict each other or the dataset.
    """

    def __init__(
        self,
        source: Source,
        options: DataOptions | None = None,
        *,
        expected_input: ExpectedInput | None = None,
        augmentation: nn.Module | None = None,
        seed: int = 0,
        channels: int | None = None,
    ) -> None:
        super().__init__()
        options = options or DataOptions()
        self.source = source
        self.augmentation = augmentation
        self.seed = seed
        self.cache_dir = cache_folder(options.data_dir, "stores")
        self.features_dir = cache_folder(options.data_dir, "features")
        expected = expected_input or ExpectedInput()
        self.image_size = choose_image_size(options, expected, source)
        self.channels = source.channels if channels is None else channels
        if source.channels not in (1, self.channels):
            raise UserError(
                f"The images of '{source.name}' have {source.channels} channels, but the network takes "
                f"{self.channels}. Choose another network, or set datamodule.channels={self.channels}."
            )
        if isinstance(augmentation, Augmentation):
            augmentation.check_channels(source.channels)
        self._mean_std = choose_mean_std(options, expected, source, self.channels)
        self.base_batch_size = options.base_batch_size
        self.batch_size = options.base_batch_size if options.batch_size == "auto" else options.batch_size
        self._eval_batch_size = options.eval_batch_size
        self.sampler: Sampler = options.sampler
        self.split_options = options.splits(seed)
        self.resize: Resize = options.resize
        self.interpolation: Interpolation = choose_interpolation(options, expected)
        self.splits = ImageSplits(
            source,
            self.image_size,
            self.resize,
            self.interpolation,
            self.split_options,
            self.cache_dir,
            options.on_bad_image,
        )
        self._fetcher = BatchFetcher(options.on_device)
        self._preprocess: Preprocess | None = None
        self._sampled: set[Split] = set()

    def __str__(self) -> str:
        """Return one line; Lightning's own would need the length of each loader's dataset."""
        height, width = self.image_size
        return f"ImageDataModule({self.source.name}, {self.channels}x{height}x{width}, batch_size={self.batch_size})"

    def prepare_data(self) -> None:
        """Decode the images of the coming stage, or all without a trainer. Does nothing the second time."""
        function = self.trainer.state.fn if self.trainer is not None else None
        for split in self._needed(None if function is None else function.value):
            self.splits.store(split)

    def setup(self, stage: str | None = None) -> None:
        """Open the splits of a stage; `None` is every stage.

        Raises:
            UserError: The decoded images do not fit on the disk, or a batch of them does not fit into the memory.
        """
        if not self.splits.subsets:
            check_batch_memory(max(self.batch_size, self.eval_batch_size), (self.channels, *self.image_size))
        self.splits.open(self._needed(stage))

    @property
    def eval_batch_size(self) -> int:
        """Images per validation or test batch, over all devices; the default is a multiple of the processes."""
        if self._eval_batch_size is not None:
            return self._eval_batch_size
        processes = self._processes
        return max(max(self.batch_size, default_eval_batch_size(self.image_size)) // processes, 1) * processes

    @property
    def preprocess(self) -> Preprocess:
        """Turns uint8 pixels ``(B, C, H, W)`` into the network's input: the same for val, test and prediction."""
        if self._preprocess is None:
            mean, std = self._mean_std.measured(lambda: channel_statistics(self.subset("train"), self.cache_dir))
            self._preprocess = Preprocess(mean, std, self.channels)
        return self._preprocess

    def subset(self, split: Split) -> Subset:
        """Return the images of a split; opens it if needed."""
        if split not in self.splits.subsets:
            self.setup(_STAGE[split])
        return self.splits.subsets[split]

    def use_features(self, features: Mapping[Split, FeatureSubset], features_of: str) -> None:
        """Load cached features instead of the pixels of some splits.

        Args:
            features: Features of all images, by split.
            features_of: Step of the network whose output they are.
        """
        self._fetcher.features, self._fetcher.features_of = dict(features), features_of

    def use_teacher_outputs(self, outputs: Mapping[Split, FeatureSubset]) -> None:
        """Load the outputs of a teacher together with the images of some splits."""
        self._fetcher.teacher_outputs = dict(outputs)

    def release_device_cache(self) -> None:
        """Release the images held on a device; those of a copy of this datamodule stay."""
        self._fetcher = self._fetcher.without_device_cache()

    def facts(self) -> dict[str, Any]:
        """Return the facts of the data that a result or a prediction needs, as plain values.

        Until the stage `test` has decoded the dataset's test images, they are counted as listed.
        """
        self.setup("fit")
        subsets = self.splits.subsets
        splits: tuple[Split, ...] = ("train", "val", "test")
        targets = {s: (subsets[s] if s in subsets else self.source.splits[s]).targets for s in splits}
        classes = self.source.classes
        return {
            "name": self.source.name,
            "classes": list(classes),
            "counts": {s: len(targets[s]) for s in splits},
            "class_counts": {s: np.bincount(targets[s], minlength=len(classes)).tolist() for s in splits},
            "origin": {s: subsets[s].origin if s in subsets else "given" for s in splits},
            "bad_images": self.splits.bad_images,
            "bad_image_reports": self.splits.bad_image_reports,
            "fingerprint": self.splits.fingerprint(),
            "dataset": self.splits.dataset(),
            "image_size": list(self.image_size),
            "channels": self.channels,
            "source_channels": self.source.channels,
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "resize": self.resize,
            "interpolation": self.interpolation,
        }

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, from the trainer's position in its epoch."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        """Return batches of every validation image once, in order."""
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Return batches of every test image once, in order."""
        return self._loader("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move pixels (as bytes) and targets to the device."""
        if not isinstance(batch, Batch):  # Lightning's model summary passes its example input
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn pixels into the network's input, augmented in training steps only."""
        if not isinstance(batch, Batch):
            return batch
        training = self.trainer is not None and self.trainer.training
        return self.finish(batch, augment=training)

    @torch.no_grad()
    def finish(self, batch: Batch, *, augment: bool) -> Batch:
        """Return the batch with float32 images, normalized, and augmented first if `augment` is True.

        Cached features only become float32: they were computed from normalized images.
        """
        if batch.features_of is not None:
            return batch._replace(images=batch.images.float())
        if not augment or self.augmentation is None:
            return batch._replace(images=self.preprocess(batch.images))
        unit = self.preprocess.to_unit_range(batch.images)
        images, targets = _checked(self.augmentation(unit, batch.targets, batch.key), unit.shape, self.augmentation)
        return batch._replace(images=self.preprocess.normalize(images), targets=targets)

    def _loader(self, split: Split) -> BatchLoader:
        subset, trainer, training = self.subset(split), self.trainer, split == "train"
        targets = subset.targets
        loader = BatchLoader(
            partial(self._fetcher.fetch, split, subset, targets, self._device),
            targets,
            self.batch_size if training else self.eval_batch_size,
            training=training,
            sampler=self.sampler,
            seed=self.seed if training else self.split_options.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=self._processes,
            position=self._progress if trainer is not None and trainer.training else None,
            streaming=streaming(subset, partial(self._fetcher.reads_images, split)),
        )
        if trainer is not None:
            self._limit(loader, split, trainer)
        return loader

    def _limit(self, loader: BatchLoader, split: Split, trainer: L.Trainer) -> None:
        """Limit the batches as the trainer says; warn once if metrics are then measured on a sample."""
        limit = getattr(trainer, f"limit_{split}_batches")
        batches = loader.limit(limit, f"trainer.limit_{split}_batches")
        if split == "train" or batches == len(loader) or split in self._sampled or not trainer.is_global_zero:
            return
        self._sampled.add(split)
        _LOG.warning(
            "%s metrics are measured on a stratified sample of %d of %d images (trainer.limit_%s_batches=%g)",
            split,
            batches * loader.batch_size,
            len(self.subset(split)),
            split,
            limit,
        )

    @property
    def _processes(self) -> int:
        """Number of processes that share each batch."""
        return self.trainer.world_size if self.trainer is not None else 1

    def _device(self) -> torch.device:
        """Return the device of the network."""
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    def _progress(self) -> tuple[int, int]:
        """Return the trainer's epoch and the number of its batches that are done, also after a resume."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        return self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready

    def _needed(self, stage: str | None) -> list[Split]:
        """Return the splits of the dataset that must be open for a stage."""
        measured = not self._mean_std.is_known
        carved = "test" not in self.source.splits
        splits: list[Split] = []
        if stage in (None, "fit", "validate") or measured or (carved and stage == "test"):
            splits += ["train", "val"]
        if stage in (None, "test"):
            splits += ["test"]
        return [split for split in splits if split in self.source.splits]


def _checked(result: Any, shape: torch.Size, augmentation: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and targets that an augmentation has made; it may be code of the user.

    Raises:
        UserError: They are not a pair of tensors, not as many and as large as the images before, or not floats.
    """
    name = f"augmentation: {type(augmentation).__name__}"
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    if not is_pair or not all(isinstance(part, torch.Tensor) for part in result):
        raise UserError(f"{name} returns {type(result).__name__}: return a tuple of images and targets, as tensors")
    images, targets = result
    if images.shape != shape or len(targets) != shape[0]:
        raise UserError(
            f"{name} makes images of shape {tuple(images.shape)} and {len(targets)} targets from images of shape "
            f"{tuple(shape)}: keep their number and size"
        )
    if not images.is_floating_point():
        raise UserError(f"{name} returns images of type {images.dtype}: return floats in [0, 1], as it gets them")
    return images.float(), targets
