"""Photographs of cats and dogs, from Microsoft's archive, a folder with splits, or the Hugging Face hub."""

import dataclasses
from pathlib import Path

from opsin.data.datasets.download import missing_data
from opsin.data.datasets.hugging_face import HubError, load_from_hub
from opsin.data.datasets.hugging_face_columns import read_splits
from opsin.data.datasets.image_folder import folder_splits
from opsin.data.source import DATA_DIR, Source

_FOLDERS = {"cat": "cat", "cats": "cat", "dog": "dog", "dogs": "dog"}
_SIZE = (150, 150)
_MEAN, _STD = (0.492, 0.456, 0.418), (0.258, 0.251, 0.253)  # of 4,800 training photographs at this size
_HUB_ID = "microsoft/cats_vs_dogs"
_WANTED = (
    "the folder PetImages with Cat/ and Dog/ (from https://www.microsoft.com/download/details.aspx?id=54765), "
    "or a folder cats_vs_dogs with train/cat, train/dog and, where you have them, validation/... and test/...,"
)


def cats_vs_dogs(data_dir: str = DATA_DIR, path: str | None = None, download: bool = True) -> Source:
    """About 25,000 photographs of cats and dogs, of any size, customarily served at 150x150.

    Elson, Douceur, Howell and Saul, "Asirra", 2007. The archive holds files that are no images.

    Args:
        data_dir: Holds `PetImages` (Microsoft's archive: one heap) or `cats_vs_dogs`, in either layout.
        path: A folder instead, laid out like `PetImages/{Cat,Dog}` or `{train,validation,test}/{cats,dogs}`.
        download: Take what is missing from the hub's `microsoft/cats_vs_dogs`, through Hugging Face `datasets`.

    Raises:
        UserError: The data are missing and cannot be fetched, or the folder is not laid out like this.
    """
    root = Path(data_dir if path is None else path).expanduser()
    places = [root / "PetImages", root / "cats_vs_dogs" / "PetImages", root / "cats_vs_dogs"]
    if path is not None:
        places = [root / "PetImages", root]
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        classes, splits = folder_splits(found, 3, _FOLDERS)
        return Source("cats_vs_dogs", classes, 3, _SIZE, _MEAN, _STD, splits)
    if path is not None or not download:
        reason = f"there is no folder {root.absolute()}." if path is not None else "datamodule.download=false."
        raise missing_data("Cats vs dogs", _WANTED, [root], reason)
    try:
        rows = load_from_hub(_HUB_ID)
    except HubError as error:
        raise missing_data("Cats vs dogs", _WANTED, [root], f"{_HUB_ID} could not be fetched.\n  {error}") from error
    source = read_splits(rows, _HUB_ID, "image", "labels", 3, _SIZE)
    return dataclasses.replace(source, name="cats_vs_dogs", mean=_MEAN, std=_STD)
