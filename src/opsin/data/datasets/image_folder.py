"""Image folders: one folder per class, with or without splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from opsin.data.datasets.folder_layout import split_folders
from opsin.data.datasets.image_files import folders, image_files
from opsin.data.source import FileImages, Source
from opsin.data.split_names import composed, split_named
from opsin.data.types import Channels, Side, Split
from opsin.errors import UserError, did_you_mean
from opsin.runs.home import user_path
from opsin.runs.image_root import check_image_root, no_class_folders
from opsin.runs.quoting import printed_override


def image_folder(path: str, channels: Channels = 3, size: tuple[Side, Side] = (224, 224)) -> Source:
    """Your own images: a folder of class folders, or of `train/`, `val/` and `test/` that contain class folders.

    Other names of splits are understood, such as `Training/`, `valid/`, `dev/`, `test_set/` or `seg_train/seg_train/`
    (`opsin.data.split_names`). Val and test may be missing, and may lack a class. The classes are the folders of train,
    sorted by name. Folders inside a class folder are searched too.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 gray; another number reads files with exactly that number of channels
            (multi-band TIFF, `.npy` (H, W, C)).
        size: Height and width that the images are resized to, in pixels.

    Raises:
        UserError: The folder is missing or has another layout.
    """
    root = user_path(path)
    classes, splits = folder_splits(root, channels)
    return Source(composed(root.resolve().name), classes, channels, size, mean=None, std=None, splits=splits)


def unlabeled_images(path: str, channels: Channels = 3) -> FileImages | None:
    """Return the images of a folder without subfolders, whose classes are unknown: all have class 0.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 gray; another number reads files with exactly that number of channels
            (multi-band TIFF, `.npy` (H, W, C)).

    Returns:
        The images sorted by name, or None if there are subfolders, which are classes for `image_folder`.

    Raises:
        UserError: The folder does not exist or has no images.
    """
    root = user_path(path)
    if not root.is_dir():
        raise UserError(f"The folder {root.absolute()} does not exist.")
    if folders(root):
        return None
    files = image_files(root, channels=channels)
    if not files:
        raise UserError(f"{root.absolute()} has neither class folders nor images.")
    return FileImages(root, tuple(files), np.zeros(len(files), np.int64), channels)


def folder_splits(
    root: Path, channels: Channels, aliases: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[Split, FileImages]]:
    """Return the classes, and the images of each split of a folder; without splits, all images are "train".

    Args:
        root: The folder.
        channels: Channels that the images are read with.
        aliases: Class by lower-case folder name, if the classes are known in advance; their order is that of the
            first appearance. None for the sorted folder names of train.

    Raises:
        UserError: The folder is missing or has another layout than `image_folder` describes.
    """
    check_image_root(root)
    found = split_folders(root, channels)
    if aliases is None:
        classes = tuple(dict.fromkeys(composed(folder.name) for folder in folders(found["train"])))
        _check_train(found["train"], classes)
    else:
        classes = tuple(dict.fromkeys(aliases.values()))
    splits = {}
    for split, folder in found.items():
        by_class = _class_folders(folder, classes, aliases)
        if split == "train" and (missing := [name for name in classes if name not in by_class]):
            raise _wrong_classes(folder, classes, missing, ())
        splits[split] = _images(split, folder, [by_class.get(name) for name in classes], channels)
    return classes, splits


def _check_train(folder: Path, classes: Sequence[str]) -> None:
    if not classes:
        raise no_class_folders(folder)
    if len(classes) == 1:
        (only,) = folders(folder)
        inside = folders(only)
        hint = f" Did you mean {printed_override('datamodule.path', only)}?" if len(inside) > 1 else ""
        raise UserError(f"{folder} has only the class folder {only.name!r}; a classifier needs two.{hint}")


def _class_folders(folder: Path, classes: Sequence[str], aliases: Mapping[str, str] | None) -> dict[str, Path]:
    """Return the folder of every class that a split has; unknown and duplicate ones are refused by name."""
    found: dict[str, Path] = {}
    unknown = []
    for below in folders(folder):
        name = composed(below.name) if aliases is None else aliases.get(below.name.lower(), "")
        if name not in classes:
            unknown.append(f"{below.name!r} is not one of them{did_you_mean(below.name, classes) or '.'}")
        elif name in found:
            both = f"{_spelled(found[name].name, below.name)} and {_spelled(below.name, found[name].name)}"
            raise UserError(f"{folder} has two folders for the class {name!r}: {both}. Merge them.")
        elif any(split_named(inside.name) == "train" for inside in folders(below)):
            raise UserError(
                f"The class folder {below} contains a folder 'train'. If {below.name} is the folder of the dataset, "
                f"set {printed_override('datamodule.path', below)}. If {below.name} is a class, put its training "
                f"images into train/{below.name}, and do the same for val and test."
            )
        else:
            found[name] = below
    if unknown:
        raise _wrong_classes(folder, classes, [name for name in classes if name not in found], unknown)
    return found


def _spelled(name: str, other: str) -> str:
    """Return a name in quotes, with the code points of its accents if another name looks the same."""
    return ascii(name) if composed(name) == composed(other) else repr(name)


def _wrong_classes(folder: Path, classes: Sequence[str], missing: Sequence[str], unknown: Sequence[str]) -> UserError:
    lacks = [f"{', '.join(map(repr, missing))} is missing."] if missing else []
    lines = "\n  ".join([*lacks, *unknown])
    return UserError(f"The class folders of {folder} must be {', '.join(classes)}.\n  {lines}")


def _images(split: Split, root: Path, class_folders: Sequence[Path | None], channels: Channels) -> FileImages:
    """Return the images of one split, by class and then by file name, in the same order on every system."""
    files: list[str] = []
    counts = []
    for folder in class_folders:
        inside = image_files(root, folder.name, channels) if folder else []
        if not inside and split == "train":
            raise UserError(
                f"The class folder {folder} has no images. Put some there, remove the folder, "
                f"or give another folder than {folder.parent if folder else root}, in which each folder is a class."
            )
        files += inside
        counts.append(len(inside))
    return FileImages(root, tuple(files), np.repeat(np.arange(len(counts)), counts), channels)
