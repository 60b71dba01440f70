"""Open the images of a run, a dataset or a folder, in the format that a trained model expects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning as L

from opsin.config import RunConfig, compose
from opsin.config.overrides import find_value, is_word, key_of
from opsin.data import ImageDataModule
from opsin.data.cache.files import cache_folder
from opsin.data.cache.image_store import open_store
from opsin.data.datasets import unlabeled_images
from opsin.data.subset import Subset
from opsin.data.types import SPLITS, Channels
from opsin.errors import UserError
from opsin.inference.opened_run import open_run
from opsin.inference.trained_model import TrainedModel
from opsin.runs.directory import RunDirectory, folder_name
from opsin.runs.home import real_path
from opsin.runs.quoting import override
from opsin.training import build
from opsin.training.network_building import for_evaluation, recorded_data
from opsin.training.plan import RunPlan, make_plan
from opsin.training.precision_timing import evaluation_precision
from opsin.training.recorded_splits import SPLIT_KEYS, recorded_options
from opsin.training.same_numerics import evaluation_options

Which = Literal["train", "val", "test", "all"]

OWN_INPUT = ("image_size", "mean", "std", "resize", "interpolation")
"""Keys of the datamodule that the trained model determines."""


@dataclass(frozen=True)
class InputImages:
    """Images to process.

    Attributes:
        name: Name of the dataset or the folder.
        classes: Class names; empty if unknown.
        subset: Function that returns the images of a split, or of "all" if there are no splits.
        cache_dir: Folder of all feature stores.
        trainer: Determines device and precision.
        out: Default folder for the embeddings.
    """

    name: str
    classes: tuple[str, ...]
    subset: Callable[[Any], Subset]
    cache_dir: Path
    trainer: L.Trainer
    out: Path

    def splits(self, which: Which) -> Sequence[str]:
        """Return the splits that `--split` selects.

        Raises:
            UserError: The images have no splits.
        """
        if self.classes:
            return SPLITS if which == "all" else (which,)
        if which == "all":
            return ("all",)
        raise UserError(f"{self.name} has no class folders, so it has neither labels nor splits; use --split all")


def open_images(trained: TrainedModel, overrides: Sequence[str] = ()) -> InputImages:
    """Open images in the format that a trained model expects.

    Args:
        trained: The trained model.
        overrides: Empty: the images of the run, in its splits. Otherwise a folder of images, with or without class
            folders, or a dataset such as `datamodule=cats_vs_dogs`; further overrides, such as `data_dir=PATH`, are
            allowed. A dataset with the images of the run has the splits of the run.

    Raises:
        UserError: The overrides name no images, or contradict the trained model.
    """
    folders, overrides = (
        [item for item in overrides if is_word(item)],
        [item for item in overrides if not is_word(item)],
    )
    if len(folders) > 1:
        raise UserError(f"{' and '.join(folders)}: give one folder of images")
    for item in overrides:
        key = key_of(item).removeprefix("datamodule.")
        differs = key == "channels" and find_value([item], key_of(item)) != str(trained.source_channels)
        if differs or key in OWN_INPUT:
            raise UserError(f"{item}: {trained.name} determines the format of the images; only --image-size can differ")
    run = RunDirectory(Path(trained.name))
    chosen = any(key_of(item) in ("datamodule", "experiment") for item in overrides)
    if folders:
        return _folder(trained, folders[0], overrides)
    if chosen:
        return _of_data(trained, overrides)
    if run.config.is_file():
        return _own(run, overrides)
    raise UserError(
        f"{trained.name} has no images: give a folder of images, or a dataset, such as "
        "datamodule=cats_vs_dogs datamodule.path=PHOTOS"
    )


def _own(run: RunDirectory, overrides: Sequence[str]) -> InputImages:
    opened = open_run(run, overrides)
    return _images(opened.data, build.evaluator(opened.plan, run), run.embeddings)


def _of_data(trained: TrainedModel, overrides: Sequence[str]) -> InputImages:
    composed = compose(overrides)
    plan = _with_channels(make_plan(composed), trained.source_channels)
    data = build.data(plan, image_format=trained.image_format)
    run = RunDirectory(Path(trained.name))
    if run.config.is_file() and _has_images_of(run, data):
        _refuse_splits(trained, data, overrides)
        plan = replace(plan, data=make_plan(composed.changed(_recorded_splits(run))).data)
        data = build.data(plan, image_format=trained.image_format)
    return _images(data, _evaluator(trained, plan, composed.run), _place(trained, composed, data.source.name))


def _with_channels(plan: RunPlan, channels: Channels) -> RunPlan:
    """Return a plan whose dataset reads images with some channels, if it has a choice."""
    if not plan.dataset.takes("channels"):
        return plan
    return replace(plan, dataset=replace(plan.dataset, arguments={**plan.dataset.arguments, "channels": channels}))


def _has_images_of(run: RunDirectory, data: ImageDataModule) -> bool:
    """Return whether a dataset has the images and labels of a run; reads all files if the classes are equal."""
    recorded = recorded_data(run)
    return recorded.classes == tuple(data.source.classes) and recorded.dataset == data.splits.dataset()


def _refuse_splits(trained: TrainedModel, data: ImageDataModule, overrides: Sequence[str]) -> None:
    """Refuse other splits of the images of a run: training images would be in val and test."""
    for item in overrides:
        key = key_of(item)
        if key == "seed" or key.removeprefix("datamodule.") in SPLIT_KEYS:
            raise UserError(
                f"{item}: {data.source.name} has the images of {trained.name}, and other splits would test on its "
                f"training images. Leave out {key}; the splits are those of the run"
            )


def _recorded_splits(run: RunDirectory) -> dict[str, Any]:
    """Return the values of the config with which a run split its images, by dotted key."""
    options = recorded_options(run)
    return {f"datamodule.{key}": getattr(options, key) for key in SPLIT_KEYS}


def _evaluator(trained: TrainedModel, plan: RunPlan, run: RunDirectory) -> L.Trainer:
    """Return a trainer with the recorded precision of a model, or the one that is the fastest for it here."""
    plan = for_evaluation(replace(plan, trainer=evaluation_options(plan.trainer, trained.settings)))
    options = evaluation_precision(plan.trainer, trained.network, (trained.channels, *trained.size))
    return build.evaluator(replace(plan, trainer=options), run)


def _images(data: ImageDataModule, trainer: L.Trainer, out: Path) -> InputImages:
    return InputImages(data.source.name, tuple(data.source.classes), data.subset, data.features_dir, trainer, out)


def _folder(trained: TrainedModel, folder: str, overrides: Sequence[str]) -> InputImages:
    loose = unlabeled_images(folder, trained.source_channels)
    place = real_path(folder)
    if loose is None:
        return _of_data(trained, ["datamodule=image_folder", override("datamodule.path", place), *overrides])
    composed = compose(overrides)
    data_dir = composed.tree["data_dir"]
    stores, features = cache_folder(data_dir, "stores"), cache_folder(data_dir, "features")
    store = open_store(loose, trained.size, trained.resize, trained.interpolation, cache_dir=stores)
    trainer = _evaluator(trained, make_plan(composed), composed.run)
    out = _place(trained, composed, place.name)
    return InputImages(place.name, (), lambda _: Subset.whole(store), features, trainer, out)


def _place(trained: TrainedModel, composed: RunConfig, images: str) -> Path:
    """Return the folder for the embeddings of images that do not belong to the run; it is named after the images."""
    run = RunDirectory(Path(trained.name))
    if run.config.is_file():
        return run.embeddings / folder_name(images)
    return Path(composed.tree["output_dir"]) / "embeddings" / trained.name / folder_name(images)
