"""Any dataset of the Hugging Face hub, or a local one that Hugging Face `datasets` reads."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opsin.data.datasets.hugging_face_columns import read_splits
from opsin.data.source import Source
from opsin.data.split_names import composed
from opsin.data.types import Channels, Side
from opsin.errors import UserError
from opsin.runs.home import user_path

if TYPE_CHECKING:
    from datasets import Dataset

_CONNECT_S = 10.0  # seconds


def hugging_face(
    path: str,
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    channels: Channels = 3,
    size: tuple[Side, Side] = (224, 224),
) -> Source:
    """A dataset with an image and a label column, its splits named as on the hub (validation, valid, dev: val).

    Without internet access, a dataset downloaded earlier is read from Hugging Face's own cache.

    Args:
        path: An id like `ylecun/mnist`, or a local folder: written by `save_to_disk`, or of parquet or image files.
        name: Configuration of the dataset, if it has several.
        image_column: None for the only column of type Image.
        label_column: None for the only column of type ClassLabel, else the only one of strings or integers.
        revision: A branch, tag or commit of the dataset on the hub.
        channels: 3 reads RGB, 1 gray; another number reads images with exactly that number of
            channels, such as multi-band TIFF.
        size: Height and width that the images are resized to, in pixels.

    Raises:
        UserError: The dataset cannot be downloaded or read, or the choice of a column is ambiguous.
    """
    folder = user_path(path)
    if folder.exists():
        source = read_splits(_load_local(folder, name), path, image_column, label_column, channels, size)
        return replace(source, name=composed(folder.resolve().name))
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path:
        raise UserError(f"There is no folder {folder.absolute()}, and {path!r} is not an id like 'ylecun/mnist'.")
    try:
        rows = load_from_hub(path, name, revision)
    except HubError as error:
        raise UserError(
            f"The Hugging Face dataset {path!r} could not be downloaded.\n  {error}\n"
            f"Download it on a machine with internet access and copy Hugging Face's cache ({_cache()}) here, or "
            "save it to a folder with datasets.load_dataset(...).save_to_disk(FOLDER) and set "
            "datamodule.path=FOLDER.\n"
            "Without internet access, use datamodule=digits: its images are part of scikit-learn."
        ) from error
    return read_splits(rows, path, image_column, label_column, channels, size)


class HubError(Exception):
    """A dataset cannot be downloaded from the hub; the message is the reason."""


def load_from_hub(path: str, name: str | None = None, revision: str | None = None) -> Mapping[str, "Dataset"]:
    """Load the splits of a dataset on the hub, from the cache if it is current or the hub cannot be reached.

    Raises:
        HubError: The dataset is not on the hub, or the hub cannot be reached and the cache does not have it.
    """
    import datasets

    problem = _hub_problem()
    try:
        with _offline() if problem else contextlib.nullcontext():
            return _by_split(datasets.load_dataset(path, name, revision=revision))
    except Exception as error:
        # Network, hub, parser and disk raise different exceptions, which change with the libraries below.
        raise HubError(problem or _first_line(error)) from error


def _hub_problem() -> str:
    """Return why the hub cannot be reached, or "". Without this check, `datasets` retries for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set."
    try:
        get_session().head(constants.ENDPOINT, timeout=_CONNECT_S)
    except Exception as error:  # the HTTP client below changes
        return f"{constants.ENDPOINT} cannot be reached: {_first_line(error)}"
    return ""


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Restrict Hugging Face's libraries to their caches; HF_HUB_OFFLINE is read only at import."""
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
    except Exception as error:  # every file format raises different exceptions
        raise UserError(
            f"Hugging Face datasets cannot read {folder.absolute()}: {_first_line(error)}\n"
            "The folder must be written by save_to_disk, or contain parquet files or folders of images."
        ) from error


def _by_split(loaded: Any) -> Mapping[str, "Dataset"]:
    return cast("Mapping[str, Dataset]", loaded if isinstance(loaded, dict) else {"train": loaded})


def _cache() -> str:
    from datasets import config

    return str(config.HF_CACHE_HOME)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error of Hugging Face's libraries, or of its cause if it gives no reason itself."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        return _first_line(error.__cause__)
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
