"""Folders of class folders, with or without ready-made splits."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from opsin.data.source import Channels, FileImages, Source, Split
from opsin.errors import UserError, did_you_mean

SPLIT_NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": ("train",),
    "val": ("val", "validation", "valid"),
    "test": ("test",),
}
# Left behind by systems and programs beside images. Names with a leading dot are passed over too.
_CLUTTER = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
# What is clearly no image. Everything else is decoded, and named in the report if that fails.
_NOT_IMAGE = re.compile(
    r".*\.(txt|md|rtf|pdf|docx?|xlsx?|csv|tsv|json|jsonl|xml|ya?ml|toml|ini|cfg|html?|url|log|db|bak"
    r"|py|ipynb|js|sh|npy|npz|mat|pkl|pickle|parquet|zip|tar|tgz|gz)",
    re.IGNORECASE,
)

Pixels = Annotated[int, Field(ge=1)]


def image_folder(path: str, channels: Channels = 3, size: tuple[Pixels, Pixels] = (224, 224)) -> Source:
    """Your own images: a folder with one folder per class, or with `train/`, `val/` and `test/` that hold them.

    `validation/` and `valid/` mean `val/`; val and test may be missing. The classes are the folders of train,
    sorted by name, and the other splits must have the very same. Folders inside a class folder are walked.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 grey.
        size: (height, width) in pixels the images are served at.

    Raises:
        UserError: The folder is missing or not laid out like this.
    """
    root = Path(path).expanduser()
    classes, splits = folder_splits(root, channels)
    return Source(root.resolve().name, classes, channels, size, mean=None, std=None, splits=splits)


def loose_images(path: str, channels: Channels = 3) -> FileImages | None:
    """The images of a folder that has no folders in it, whose classes nobody knows: all are of class 0.

    Args:
        path: The folder.
        channels: 3 reads RGB, 1 grey.

    Returns:
        The images sorted by name, or None where there are folders, which `image_folder` takes for classes.

    Raises:
        UserError: There is no such folder, or nothing in it.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UserError(f"There is no folder {root.absolute()}.")
    if _folders(root):
        return None
    files = image_files(root)
    if not files:
        raise UserError(f"{root.absolute()} holds neither class folders nor images.")
    return FileImages(root, tuple(files), np.zeros(len(files), np.int64), channels)


def image_files(root: Path) -> list[str]:
    """Files below a folder that may be images, relative to it and sorted by name; what is clearly none is left out."""
    return sorted(file.removeprefix("./") for file in _walk(root, ".", set()))


def folder_splits(
    root: Path, channels: Channels, aliases: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], dict[Split, FileImages]]:
    """The classes, and the images of each split that a folder brings; one heap is all "train".

    Args:
        root: The folder.
        channels: What the images are read as.
        aliases: Class by lower-case folder name, where the classes are known beforehand; their first
            appearances give the order. None: the sorted folder names of train.

    Raises:
        UserError: The folder is missing or not laid out as `image_folder` says.
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
    """The folder of each split; without a train folder, which holds folders itself, the root is all train."""
    place = root.absolute()
    if not root.exists():
        raise UserError(f"There is no folder {place}. Say where the images are with datamodule.path=FOLDER.")
    if not root.is_dir():
        raise UserError(f"{place} is a file; datamodule.path must be the folder that holds the class folders.")
    strays = _folders(root)
    splits: dict[Split, Path] = {}
    for split, names in SPLIT_NAMES.items():
        found = [folder for folder in strays if folder.name.lower() in names]
        if len(found) > 1:
            both = " and ".join(repr(folder.name) for folder in found)
            raise UserError(f"{place} has {both}, which mean the same split. Rename or remove one of them.")
        if found:
            splits[split] = found[0]
            strays.remove(found[0])
    if "train" not in splits or not _folders(splits["train"]):
        if splits and not strays:
            has = ", ".join(repr(folder.name) for folder in splits.values())
            raise UserError(f"{place} has {has} but no 'train' with class folders: there is nothing to learn from.")
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
        raise UserError(f"{folder} holds no class folders. Put the images of each class into one of its own there.")
    if len(classes) == 1:
        inside = [below.name for below in _folders(folder / classes[0])]
        hint = f" Did you mean datamodule.path={folder / classes[0]}?" if len(inside) > 1 else ""
        raise UserError(f"{folder} holds one class folder only, {classes[0]!r}; a classifier needs two.{hint}")


def _class_folders(folder: Path, classes: Sequence[str], aliases: Mapping[str, str] | None) -> dict[str, Path]:
    """The folder of every class in a split; refuses missing, unknown and doubled ones by name."""
    found: dict[str, Path] = {}
    unknown = []
    for below in _folders(folder):
        name = below.name if aliases is None else aliases.get(below.name.lower(), "")
        if name not in classes:
            unknown.append(f"{below.name!r} is none of them{did_you_mean(below.name, classes) or '.'}")
        elif name in found:
            raise UserError(f"{folder} has {found[name].name!r} and {below.name!r} for the one class {name!r}.")
        elif (below / "train").is_dir():
            raise UserError(
                f"The class folder {below} has a folder 'train' of its own. If it is the dataset, say "
                f"datamodule.path={below}; if it is a class, its splits belong above it, as train/{below.name}."
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
    """The images of one split: classes in order, files by name in each, so on every system alike."""
    files: list[str] = []
    counts = []
    for folder in class_folders:
        inside = sorted(_walk(root, folder.name, set()))
        if not inside:
            raise UserError(f"The class folder {folder} holds no images. Put some there, or remove the class.")
        files += inside
        counts.append(len(inside))
    return FileImages(root, tuple(files), np.repeat(np.arange(len(counts)), counts), channels)


def _walk(root: Path, folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Files that may be images, relative to `root`, below one of its folders.

    Links are followed, but no folder is entered twice. A dangling link is an image that cannot be read, and is
    to be reported as one; pipes and sockets are passed over.
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
