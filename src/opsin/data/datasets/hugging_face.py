"""Any dataset of the Hugging Face hub, or a local one that Hugging Face `datasets` reads."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opsin.data.datasets.hugging_face_columns import read_splits
from opsin.data.datasets.image_folder import Pixels
from opsin.data.source import Channels, Source
from opsin.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_TIMEOUT = 10.0  # seconds


def hugging_face(
    path: str,
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    channels: Channels = 3,
    size: tuple[Pixels, Pixels] = (224, 224),
) -> Source:
    """A dataset with an image and a label column, its splits named as on the hub (validation, valid, dev: val).

    Without network a dataset that was fetched before is taken from Hugging Face's own cache.

    Args:
        path: An id like `ylecun/mnist`, or a local folder: written by `save_to_disk`, or of parquet or image files.
        name: The dataset's configuration, where it has several.
        image_column: None: the only one of type Image.
        label_column: None: the only one of type ClassLabel, else the only one of strings or whole numbers.
        revision: A branch, tag or commit of the dataset on the hub.
        channels: 3 reads RGB, 1 grey.
        size: (height, width) in pixels the images are served at.

    Raises:
        UserError: The dataset cannot be had or read, or which column to take is not clear.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        rows = _load_local(folder, name)
    elif path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path:
        raise UserError(f"There is no folder {folder.absolute()}, and {path!r} is not an id like 'ylecun/mnist'.")
    else:
        try:
            rows = load_from_hub(path, name, revision)
        except HubError as error:
            raise UserError(
                f"The Hugging Face dataset {path!r} could not be fetched.\n  {error}\n"
                f"Fetch it where there is network and copy Hugging Face's cache ({_cache()}) here, or write it to "
                "a folder with datasets.load_dataset(...).save_to_disk(FOLDER) and give datamodule.path=FOLDER.\n"
                "Without network, datamodule=digits works: its images come with scikit-learn."
            ) from error
    return read_splits(rows, path, image_column, label_column, channels, size)


class HubError(Exception):
    """Why a dataset could not be had from the hub."""


def load_from_hub(path: str, name: str | None = None, revision: str | None = None) -> Mapping[str, "Dataset"]:
    """The splits of a dataset on the hub, from the cache where the hub has nothing newer or cannot be reached.

    Raises:
        HubError: It is not on the hub, or neither the hub nor the cache can give it.
    """
    import datasets

    trouble = _hub_trouble()
    try:
        with _offline() if trouble else contextlib.nullcontext():
            return _by_split(datasets.load_dataset(path, name, revision=revision))
    except Exception as error:
        # Network, hub, parser and disk each raise kinds of their own, which change with the libraries beneath.
        raise HubError(trouble or _first_line(error)) from error


def _hub_trouble() -> str:
    """Why the hub cannot be asked; empty if it can. Without this, `datasets` tries again for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set."
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # of the HTTP client beneath, which changes
        return f"{constants.ENDPOINT} cannot be reached: {_first_line(error)}"
    return ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Lets Hugging Face's libraries look into their caches only; HF_HUB_OFFLINE is read once, at import."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _load_local(folder: Path, name: str | None) -> Mapping[str, "Dataset"]:
    import datasets

    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} is a file; datamodule.path must be the folder that holds the dataset.")
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return _by_split(datasets.load_from_disk(folder))
        return _by_split(datasets.load_dataset(str(folder.resolve()), name))
    except Exception as error:  # every file format has exceptions of its own
        raise UserError(
            f"Hugging Face datasets cannot read {folder.absolute()}: {_first_line(error)}\n"
            "It must have been written by save_to_disk, or hold parquet files, or folders of images."
        ) from error


def _by_split(loaded: Any) -> Mapping[str, "Dataset"]:
    return cast("Mapping[str, Dataset]", loaded if isinstance(loaded, dict) else {"train": loaded})


def _cache() -> str:
    from datasets import config

    return str(config.HF_CACHE_HOME)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
