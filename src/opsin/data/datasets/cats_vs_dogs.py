"""Photographs of cats and dogs, from Microsoft's archive, a folder with splits, or the Hugging Face hub."""

import dataclasses
from typing import Literal

from opsin.data.datasets.download import missing_data
from opsin.data.datasets.hugging_face import HubError, load_from_hub
from opsin.data.datasets.hugging_face_columns import read_splits
from opsin.data.datasets.image_folder import folder_splits
from opsin.data.options import DATA_DIR
from opsin.data.source import Source
from opsin.runs.home import user_path

_FOLDERS = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog"}
_SIZE = (150, 150)
_MEAN, _STD = (0.492, 0.456, 0.418), (0.258, 0.251, 0.253)  # from 4,800 training photographs at _SIZE
_HUB_ID = "microsoft/cats_vs_dogs"
_WANTED = (
    "the folder PetImages with Cat/ and Dog/ (from https://www.microsoft.com/download/details.aspx?id=54765), "
    "or a folder cats_vs_dogs with train/cat, train/dog and optionally validation/... and test/...,"
)


def cats_vs_dogs(
    data_dir: str = DATA_DIR, path: str | None = None, download: bool = True, channels: Literal[1, 3] = 3
) -> Source:
    """About 25,000 photographs of cats and dogs of any size, usually resized to 150x150.

    Elson, Douceur, Howell and Saul, "Asirra", 2007. Some files of the archive are not images.

    Args:
        data_dir: Folder with `PetImages` (Microsoft's archive, without splits) or `cats_vs_dogs`, in either layout.
        path: Another folder, with `PetImages/{Cat,Dog}` or `{train,validation,test}/{cats,dogs}`.
        download: Download missing data from the hub's `microsoft/cats_vs_dogs`, with Hugging Face `datasets`.
        channels: 3 reads RGB, 1 gray.

    Raises:
        UserError: The data are missing and cannot be downloaded, or the folder has another layout.
    """
    root = user_path(data_dir if path is None else path)
    folders = [root / "PetImages", root / "cats_vs_dogs" / "PetImages", root / "cats_vs_dogs"]
    if path is not None:
        folders = [root / "PetImages", root]
    mean, std = (_MEAN, _STD) if channels == 3 else (None, None)  # those of gray images are measured
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None:
        classes, splits = folder_splits(found, channels, _FOLDERS)
        return Source("cats_vs_dogs", classes, channels, _SIZE, mean, std, splits)
    if path is not None or not download:
        reason = f"there is no folder {root.absolute()}." if path is not None else "datamodule.download=false."
        raise missing_data("Cats vs dogs", _WANTED, [root], reason)
    try:
        rows = load_from_hub(_HUB_ID)
    except HubError as error:
        raise missing_data("Cats vs dogs", _WANTED, [root], f"{_HUB_ID} could not be downloaded.\n  {error}") from error
    source = read_splits(rows, _HUB_ID, "image", "labels", channels, _SIZE)
    return dataclasses.replace(source, name="cats_vs_dogs", mean=mean, std=std)
