"""The splits of an earlier run, and a warning if that run was trained on images that this run evaluates."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from opsin.config import RunConfig
from opsin.data import ImageDataModule
from opsin.data.options import DataOptions
from opsin.data.splitting import SplitOptions
from opsin.data.types import SPLITS
from opsin.errors import UserError
from opsin.models.fine_tuning import FineTuning
from opsin.models.weights import KINDS
from opsin.runs.directory import RunDirectory
from opsin.runs.home import user_path
from opsin.runs.quoting import printed_override
from opsin.runs.result import WAY_OUT
from opsin.training.distillation import DistillationWeights

log = logging.getLogger(__name__)

SPLIT_KEYS = ("val_fraction", "test_fraction", "num_folds", "fold", "split_seed")
"""Keys of the datamodule that decide which images are in which split."""


def recorded_options(run: RunDirectory) -> DataOptions:
    """Return the data options of a run, with the seed of its splits as `split_seed`.

    Raises:
        UserError: The config of the run is damaged.
    """
    tree = RunConfig.load(run).tree
    section = tree.get("datamodule", {})
    names = [field.name for field in fields(DataOptions)]
    try:
        options = TypeAdapter(DataOptions).validate_python({name: section[name] for name in names if name in section})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{run.config} is damaged (datamodule.{first['loc'][0]}: {first['msg']}): {WAY_OUT}") from None
    return replace(options, split_seed=options.splits(tree.get("seed", 0)).seed)


def warn_seen_images(fine_tuning: FineTuning, distillation: DistillationWeights, data: ImageDataModule) -> None:
    """Log a warning if weights or a teacher learned the labels of images that are in val or test of this run.

    Args:
        fine_tuning: The `model` section, which names weights and teacher.
        distillation: The `distillation` section.
        data: The datamodule after `setup("fit")`.
    """
    named = {"model.weights": fine_tuning.weights}
    if fine_tuning.teacher is not None and distillation.trains_head:
        named["model.teacher"] = fine_tuning.teacher
    for key, run in _runs(named):
        with contextlib.suppress(UserError):  # the record of the other run is damaged
            if _has_images_of(run, data) and _learned_labels(run):
                _warn(f"{key}={run.path}", recorded_options(run).splits(0), data)


def _runs(named: Mapping[str, str]) -> Iterator[tuple[str, RunDirectory]]:
    """Yield those of some values that are runs or checkpoints of runs, with their keys."""
    for key, name in named.items():
        path = user_path(name)
        holders = [folder.parent for folder in path.parents if folder == RunDirectory(folder.parent).checkpoints]
        run = RunDirectory(holders[0] if holders else path)
        if run.config.is_file() and name not in (*KINDS, "none"):
            yield key, run


def _has_images_of(run: RunDirectory, data: ImageDataModule) -> bool:
    recorded = run.read_result().data
    return recorded is not None and recorded.dataset == data.splits.dataset()


def _learned_labels(run: RunDirectory) -> bool:
    """Return whether a run was trained on labels: not if it only imitated a teacher."""
    tree = RunConfig.load(run).tree
    has_teacher = tree.get("model", {}).get("teacher") is not None
    return not has_teacher or tree.get("distillation", {}).get("labels", DistillationWeights.labels) != 0


def _warn(setting: str, earlier: SplitOptions, data: ImageDataModule) -> None:
    """Log how many images of val and test were training images with the options of an earlier run, if any."""
    trained = data.splits.divided(earlier)["train"]
    subsets = data.splits.subsets
    evaluated = [split for split in SPLITS if split in subsets and split != "train"]
    counts = [(subsets[s].shared_with(trained), f"of the {len(subsets[s])} {s} images") for s in evaluated]
    if seen := " and ".join(f"{count} {total}" for count, total in counts if count):
        changes = " ".join(_changes(asdict(earlier), asdict(data.split_options)))
        log.warning(
            "%s was trained on %s of this run, so their metrics are too high. Split the images as that run did: %s",
            setting,
            seen,
            changes,
        )


def _changes(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the overrides that give wanted options of the split; another fraction of train needs none."""
    keys = {name: "split_seed" if name == "seed" else name for name in wanted}
    changed = [name for name in wanted if keys[name] in SPLIT_KEYS and wanted[name] != current[name]]
    return [printed_override(f"datamodule.{keys[name]}", wanted[name]) for name in changed]
