"""Image folders: one folder per class, with or without splits."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from opsin.data.source import FileImages, Source
from opsin.data.types import Channels, Side, Split
from opsin.errors import UserError, did_you_mean
from opsin.runs.quoting import printed_override

SPLIT_NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("train",),
    "val": ("val", "validation", "valid"),
    "test": ("test",),
}
# Files that systems and programs create next to images. Names with a leading dot are ignored too.
_CLUTTER = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
# Files that are clearly not images. All others are decoded, and reported if that fails.
_NOT_IMAGE = re.compile(
    r".*\.(txt|md|rtf|pdf|docx?|xlsx?|csv|tsv|json|jsonl|xml|ya?ml|toml|ini|cfg|html?|url|log|db|bak"
    r"|py|ipynb|js|sh|npy|npz|mat|pkl|pickle|parquet|zip|tar|tgz|gz)",
    re.IGNORECASE,
)


def image_folder(path: str, channels: Channels = 3, size: tuple[Side, Side] = (224, 224)) -> Source:
    """Your own images: a folder of class folders, or of `train/`, `val/` and `test/` that contain class folders.

    `validation/` and `valid/` mean `val/`; val and test may be missing. The classes are the folders of train,
    sorted by name, and the other splits must have the same. Folders inside a class folder are searched too.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 gray.
        size: Height and width that the images are resized to, in pixels.

    Raises:
        UserError: The folder is missing or has another layout.
    """
    root = Path(path).expanduser()
    classes, splits = folder_splits(root, channels)
    return Source(root.resolve().name, classes, channels, size, mean=None, std=None, splits=splits)


def unlabeled_images(path: str, channels: Channels = 3) -> FileImages | None:
    """Return the images of a folder without subfolders, whose classes are unknown: all have class 0.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 gray.

    Returns:
        The images sorted by name, or None if there are subfolders, which are classes for `image_folder`.

    Raises:
        UserError: The folder does not exist or has no images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"The folder {root.absolute()} does not exist.")
    if _folders(root):
        return None
    files = image_files(root)
    if not files:
        raise UserError(f"{root.absolute()} has neither class folders nor images.")
    return FileImages(root, tuple(files), np.zeros(len(files), np.int64), channels)


def image_files(root: Path) -> list[str]:
    """Return the files below a folder that may be images, relative to it and sorted by name."""
    return sorted(file.removeprefix("./") for file in _walk(root, ".", set()))


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
    folders = _split_folders(root)
    if aliases is None:
        classes = tuple(sorted(folder.name for folder in _folders(folders["train"])))
        _check_train(folders["train"], classes)
    else:
        classes = tuple(dict.fromkeys(aliases.values()))
    splits = {}
    for split, folder in folders.items():
        by_class = _class_folders(folder, classes, aliases)
        splits[split] = _images(folder, [by_class[name] for name in classes], channels)
    return classes, splits


def _split_folders(root: Path) -> dict[Split, Path]:
    """Return the folder of each split; without a train folder that has class folders, the root is train."""
    path = root.absolute()
    if not root.exists():
        raise UserError(f"The folder {path} does not exist. Name the folder of the images with datamodule.path=FOLDER.")
    if not root.is_dir():
        raise UserError(f"{path} is a file; datamodule.path must be the folder of the class folders.")
    strays = _folders(root)
    splits: dict[Split, Path] = {}
    for split, names in SPLIT_NAMES.items():
        found = [folder for folder in strays if folder.name.lower() in names]
        if len(found) > 1:
            both = " and ".join(repr(folder.name) for folder in found)
            raise UserError(f"{path} has {both}, which mean the same split. Rename or remove one of them.")
        if found:
            splits[split] = found[0]
            strays.remove(found[0])
    if "train" not in splits or not _folders(splits["train"]):
        if splits and not strays:
            has = ", ".join(repr(folder.name) for folder in splits.values())
            raise UserError(f"{path} has {has} but no 'train' with class folders, so there are no training images.")
        return {"train": root}
    classes = {folder.name for folder in _folders(splits["train"])}
    for stray in strays:
        if classes & {folder.name for folder in _folders(stray)}:
            hint = did_you_mean(stray.name, [name for names in SPLIT_NAMES.values() for name in names]) or "."
            raise UserError(
                f"{stray} holds class folders, but {stray.name!r} is not the name of a split{hint} Rename it to train, "
                "val (or validation, valid) or test, or move it away."
            )
    return splits


def _check_train(folder: Path, classes: Sequence[str]) -> None:
    if not classes:
        raise UserError(f"{folder} has no class folders. Put the images of each class into a folder of its own there.")
    if len(classes) == 1:
        inside = [below.name for below in _folders(folder / classes[0])]
        hint = f" Did you mean {printed_override('datamodule.path', folder / classes[0])}?" if len(inside) > 1 else ""
        raise UserError(f"{folder} has only the class folder {classes[0]!r}; a classifier needs two.{hint}")


def _class_folders(folder: Path, classes: Sequence[str], aliases: Mapping[str, str] | None) -> dict[str, Path]:
    """Return the folder of every class in a split; missing, unknown and duplicate ones are refused by name."""
    found: dict[str, Path] = {}
    unknown = []
    for below in _folders(folder):
        name = below.name if aliases is None else aliases.get(below.name.lower(), "")
        if name not in classes:
            unknown.append(f"{below.name!r} is not one of them{did_you_mean(below.name, classes) or '.'}")
        elif name in found:
            raise UserError(
                f"{folder} has two folders for the class {name!r}: {found[name].name!r} and {below.name!r}. Merge them."
            )
        elif (below / "train").is_dir():
            raise UserError(
                f"The class folder {below} contains a folder 'train'. If {below.name} is the folder of the dataset, "
                f"set {printed_override('datamodule.path', below)}. If {below.name} is a class, put its training "
                f"images into train/{below.name}, and likewise for val and test."
            )
        else:
            found[name] = below
    missing = [name for name in classes if name not in found]
    if unknown or missing:
        lacks = [f"{', '.join(map(repr, missing))} is missing."] if missing else []
        raise UserError(
            f"The class folders of {folder} must be {', '.join(classes)}.\n  " + "\n  ".join([*lacks, *unknown])
        )
    return found


def _images(root: Path, class_folders: Sequence[Path], channels: Channels) -> FileImages:
    """Return the images of one split, by class and then by file name, in the same order on every system."""
    files: list[str] = []
    counts = []
    for folder in class_folders:
        inside = sorted(_walk(root, folder.name, set()))
        if not inside:
            raise UserError(f"The class folder {folder} has no images. Put some there, or remove the class.")
        files += inside
        counts.append(len(inside))
    return FileImages(root, tuple(files), np.repeat(np.arange(len(counts)), counts), channels)


def _walk(root: Path, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the files that may be images below a folder, relative to `root`.

    Links are followed, but no folder is entered twice. A dangling link is returned and later reported as an image that
    cannot be read; pipes and sockets are ignored.
    """
    state = (root / folder).stat()
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    with os.scandir(root / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if _is_clutter(entry.name):
                continue
            if entry.is_dir():
                yield from _walk(root, path, seen)
            elif not _NOT_IMAGE.fullmatch(entry.name) and (entry.is_file() or not (root / path).exists()):
                yield path


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_clutter(path.name))


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _CLUTTER
