"""The layout of a folder of images: which of its folders are splits, and which are classes."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsin.data.datasets.image_files import folders, has_images, images_directly_in
from opsin.data.split_names import SPLIT_NAMES, composed, split_named
from opsin.data.types import Channels, Split
from opsin.errors import UserError, did_you_mean
from opsin.runs.quoting import printed_override

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Candidate:
    """A folder whose name means a split.

    Attributes:
        folder: The folder.
        split: The split that its name means.
        content: The folder that contains its class folders: itself, or the only folder in it if that has such a name
            too, as in `seg_train/seg_train`.
        classes: Names of the class folders in `content`.
    """

    folder: Path
    split: Split
    content: Path
    classes: frozenset[str]


def split_folders(root: Path, channels: Channels) -> dict[Split, Path]:
    """Return the folder of each split that contains its class folders; without splits, the root is train.

    Names alone do not decide. Folders are splits if the one named like train contains class folders, and another one
    named like a split contains some of the same. A class called `train` or `dev` stays a class.

    Args:
        root: A folder that exists.
        channels: Channels that the images are read with.

    Raises:
        UserError: There are splits but none is train, two folders mean the same split, or the name of a split is
            misspelled.
    """
    inside = folders(root)
    candidates = [_candidate(folder, split, channels) for folder in inside if (split := split_named(folder.name))]
    others = [folder for folder in inside if split_named(folder.name) is None]
    trains = [found for found in candidates if found.split == "train" and found.classes]
    if not trains:
        _warn_about_unused_neighbors(root, channels)
        return _without_train(root, candidates, others)
    if len(trains) > 1:
        raise _same_split(root, trains)
    train = trains[0]
    rest = [found for found in candidates if found is not train]
    sharing = [found for found in rest if found.classes & train.classes]
    loose = [folder for folder in others if images_directly_in(folder, channels)]
    if not sharing and loose and (len(loose) > 1 or any(found.classes for found in rest)):
        _LOG.warning(
            "%s is taken as a class of %s, not as the training split: no other folder there has the same class "
            "folders. If it is the training split, set datamodule.path to it.",
            train.folder.name,
            root,
        )
        return {"train": root}
    _refuse_misspelled(others, train.classes)
    return {"train": train.content, **_evaluation_splits(root, train, rest, others, channels)}


def _candidate(folder: Path, split: Split, channels: Channels) -> _Candidate:
    inside = folders(folder)
    nested = len(inside) == 1 and split_named(inside[0].name) == split and not images_directly_in(folder, channels)
    content = inside[0] if nested else folder
    return _Candidate(folder, split, content, frozenset(composed(below.name) for below in folders(content)))


def _without_train(root: Path, candidates: Sequence[_Candidate], others: Sequence[Path]) -> dict[Split, Path]:
    if candidates and not others:
        has = ", ".join(repr(found.folder.name) for found in candidates)
        raise UserError(
            f"{root.absolute()} has {has} but no 'train' with class folders, so there are no training images."
        )
    if candidates:
        names = ", ".join(found.folder.name for found in candidates)
        _LOG.info("%s: taken as classes, not as splits, because no training split has class folders", names)
    return {"train": root}


def _warn_about_unused_neighbors(root: Path, channels: Channels) -> None:
    """Warn about splits next to a folder that is the training split of a dataset."""
    place = root.resolve()
    if split_named(place.name) != "train":
        return
    classes = {composed(folder.name) for folder in folders(place)}
    with contextlib.suppress(OSError):  # the folder above cannot be read
        named = [(folder, split_named(folder.name)) for folder in folders(place.parent)]
        found = [_candidate(folder, split, channels) for folder, split in named if split in ("val", "test")]
        if unused := [neighbor.folder.name for neighbor in found if neighbor.classes & classes]:
            _LOG.warning(
                "%s is the training split of %s, and its other splits are not used: %s. To use them, set %s.",
                place.name,
                place.parent,
                ", ".join(unused),
                printed_override("datamodule.path", place.parent),
            )


def _evaluation_splits(
    root: Path, train: _Candidate, rest: Sequence[_Candidate], others: Sequence[Path], channels: Channels
) -> dict[Split, Path]:
    """Return the folders of val and test, and log every folder and its use."""
    chosen = {"train": train}
    unused = dict.fromkeys(others, "not the name of a split")
    for split in ("val", "test"):
        named = [found for found in rest if found.split == split]
        labeled = [found for found in named if found.classes & train.classes] or [f for f in named if f.classes]
        if len(labeled) > 1:
            raise _same_split(root, labeled)
        for found in named:
            if found in labeled and has_images(found.content, channels):
                chosen[split] = found
            else:
                unused[found.folder] = (
                    "no class folders, so no labels" if has_images(found.folder, channels) else "no images"
                )
    unused |= {found.folder: "no class folders" for found in rest if found.split == "train"}
    if any(found.content.name != split for split, found in chosen.items()):
        named_as = (f"{split} is {found.content.relative_to(root)}" for split, found in chosen.items())
        _LOG.info("splits of %s: %s", root, ", ".join(named_as))
    for folder, reason in unused.items():
        level = logging.INFO if folder in others else logging.WARNING
        _LOG.log(level, "%s is not used: %s", folder, reason)
    return {found.split: found.content for found in chosen.values() if found is not train}


def _same_split(root: Path, found: Sequence[_Candidate]) -> UserError:
    both = " and ".join(repr(candidate.folder.name) for candidate in found)
    return UserError(f"{root.absolute()} has {both}, which mean the same split. Rename or remove one of them.")


def _refuse_misspelled(others: Sequence[Path], classes: frozenset[str]) -> None:
    """Refuse a folder with the class folders of train whose name is not the name of a split."""
    names = [name for split in SPLIT_NAMES.values() for name in split]
    for folder in others:
        if classes & {composed(below.name) for below in folders(folder)}:
            hint = did_you_mean(folder.name, names) or "."
            raise UserError(
                f"{folder} holds class folders, but {folder.name!r} is not the name of a split{hint} Rename it to "
                "train, val (or validation, valid, dev) or test, or move it away."
            )
