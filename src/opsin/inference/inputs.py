"""The images that a command names: a run's own, a dataset's or a folder's, as a network has learned to see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L

from opsin.config import RunConfig, compose
from opsin.config.overrides import key_of
from opsin.data import ImageDataModule
from opsin.data.cache.image_store import open_store
from opsin.data.datasets import unlabeled_images
from opsin.data.subset import Subset
from opsin.data.types import Split
from opsin.errors import UserError
from opsin.inference.opened_run import open_run
from opsin.inference.trained_model import TrainedModel
from opsin.runs.directory import RunDirectory
from opsin.runs.quoting import override
from opsin.training import build
from opsin.training.plan import make_plan

Which = Literal["train", "val", "test", "all"]

SPLITS: tuple[Split, ...] = get_args(Split)
OWN_INPUT = ("image_size", "mean", "std", "resize", "interpolation")
"""Words of the datamodule that a network which has learned answers itself."""


@dataclass(frozen=True)
class InputImages:
    """InputImages to embed.

    Attributes:
        name: Of the dataset or the folder.
        classes: Names; empty where they are unknown.
        subset: Gives the images of a split, or of "all" where there are no splits.
        cache_dir: The folder of all feature stores.
        trainer: Tells device and precision.
        out: Where their embeddings go unless somebody says otherwise.
    """

    name: str
    classes: tuple[str, ...]
    subset: Callable[[Any], Subset]
    cache_dir: Path
    trainer: L.Trainer
    out: Path

    def splits(self, which: Which) -> Sequence[str]:
        """What a word on the command line stands for.

        Raises:
            UserError: These images have no splits.
        """
        if self.classes:
            return SPLITS if which == "all" else (which,)
        if which == "all":
            return ("all",)
        raise UserError(f"{self.name} has no class folders, and so neither labels nor splits; use --split all")


def open_images(learned: TrainedModel, words: Sequence[str] = ()) -> InputImages:
    """The images that some words name, to be served as a network has learned to see them.

    Args:
        learned: The network.
        words: None: the run's own images, in their own splits. A folder of images, with class folders or without; or
            words of `train.py` such as `datamodule=cats_vs_dogs`. Other words, such as `data_dir=PATH`, may stand
            beside.

    Raises:
        UserError: They name no images, or contradict the network.
    """
    folders, words = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(folders) > 1:
        raise UserError(f"{' and '.join(folders)}: one folder of images at a time")
    for word in words:
        if key_of(word).removeprefix("datamodule.") in OWN_INPUT:
            raise UserError(
                f"{word}: images are made as {learned.name} has learned to see them; --image-size may differ"
            )
    run = RunDirectory(Path(learned.name))
    chosen = any(key_of(word) in ("datamodule", "experiment") for word in words)
    if folders:
        return _folder(learned, folders[0], words)
    if chosen:
        return _of_data(learned, compose(words))
    if run.config.is_file():
        return _own(run, words)
    raise UserError(
        f"{learned.name} has no images of its own: name a folder of images, or a dataset as for train.py, such as "
        "datamodule=cats_vs_dogs datamodule.path=PHOTOS"
    )


def _own(run: RunDirectory, words: Sequence[str]) -> InputImages:
    opened = open_run(run, words)
    return _images(opened.data, build.evaluator(opened.plan, run), run.path / "embeddings")


def _of_data(learned: TrainedModel, composed: RunConfig) -> InputImages:
    plan = make_plan(composed)
    data = build.data(plan, image_format=learned.image_format)
    return _images(data, build.evaluator(plan, composed.run), _place(learned, composed, data.source.name))


def _images(data: ImageDataModule, trainer: L.Trainer, out: Path) -> InputImages:
    return InputImages(data.source.name, tuple(data.source.classes), data.subset, data.features_dir, trainer, out)


def _folder(learned: TrainedModel, folder: str, words: Sequence[str]) -> InputImages:
    channels: Literal[1, 3] = 1 if learned.channels == 1 else 3
    loose = unlabeled_images(folder, channels)
    place = Path(folder).expanduser().resolve()
    if loose is None:
        given = ["datamodule=image_folder", override("datamodule.path", place), f"datamodule.channels={channels}"]
        return _of_data(learned, compose([*given, *words]))
    composed = compose(words)
    cache = Path(composed.tree["data_dir"]) / ".opsin"
    store = open_store(loose, learned.size, learned.resize, learned.interpolation, cache_dir=cache / "stores")
    trainer = build.evaluator(make_plan(composed), composed.run)
    out = _place(learned, composed, place.name)
    return InputImages(place.name, (), lambda _: Subset.whole(store), cache / "features", trainer, out)


def _place(learned: TrainedModel, composed: RunConfig, images: str) -> Path:
    """The folder for embeddings of images that are not a run's own: named by them."""
    run = RunDirectory(Path(learned.name))
    if run.config.is_file():
        return run.path / "embeddings" / images
    return Path(composed.tree["output_dir"]) / "embeddings" / learned.name / images
