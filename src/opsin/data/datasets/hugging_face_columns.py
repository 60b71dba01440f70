"""Map a Hugging Face dataset to a source: choose columns, splits and classes."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from opsin.data.decode import BadImage, decode_image
from opsin.data.source import Source
from opsin.data.types import Channels, Split
from opsin.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger(__name__)

_SPLITS: Final[dict[str, Split]] = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_LABEL_NAMES = ("label", "labels", "class", "target", "category")


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """The image column of a Hugging Face dataset.

    Attributes:
        rows: A dataset whose only column has encoded images: bytes, or bytes and path.
        targets: Class of each image (N,), int64.
        channels: Channels of the images that `read` returns: 1 (gray) or 3 (RGB).
        name: Name for messages, such as "ylecun/mnist train".
        fingerprint: Changes with the rows, the labels or the channels.
    """

    rows: "Dataset"
    targets: NDArray[np.int64]
    channels: Channels
    name: str
    fingerprint: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode the image of a row, ``(H, W, channels)``; raises `BadImage`."""
        return decode_image(self._value(index), self.channels)

    def encoded(self, index: int) -> bytes:
        """Return the encoded image of a row."""
        value = self._value(index)
        return value.read_bytes() if isinstance(value, Path) else value

    def locate(self, index: int) -> str:
        """Return the name and the row, from 0."""
        return f"{self.name}, image {index}"

    def _value(self, index: int) -> bytes | Path:
        (value,) = self.rows[index].values()
        if isinstance(value, dict):
            value = value["bytes"] if value["bytes"] is not None else value["path"]
        if value is None:
            raise BadImage("no image in this row")
        return Path(value) if isinstance(value, str) else value


def read_splits(
    rows: Mapping[str, "Dataset"],
    name: str,
    image_column: str | None,
    label_column: str | None,
    channels: Channels,
    size: tuple[int, int],
) -> Source:
    """Return a source from the splits of a dataset; see `hugging_face` for the arguments.

    Labels that are not of type ClassLabel become classes in sorted order. A split whose labels are all -1 or
    missing (hidden, as in a competition's test set) is left out.

    Raises:
        UserError: There are no training labels, a label is not in train, or a column is missing or ambiguous.
    """
    by_split = _name_splits(rows, name)
    train = by_split["train"]
    image = image_column or _find_image_column(train, name)
    label = label_column or _find_label_column(train, name, image)
    for split, split_rows in by_split.items():
        _check_columns(split_rows, name, image, label)
        _check_classes(split_rows, f"{name} {split}", label, train)
    labels = {split: _labels(by_split[split], f"{name} {split}", label) for split in by_split}
    if labels["train"] is None:
        raise UserError(f"{name}: the training labels in column {label!r} are hidden (-1 or empty).")
    classes, encode = _classes(train, name, label, labels["train"])
    splits = {
        split: _images(by_split[split], f"{name} {split}", image, encode(values, f"{name} {split}"), channels)
        for split, values in labels.items()
        if values is not None
    }
    return Source(name, classes, channels, size, mean=None, std=None, splits=splits)


def _name_splits(rows: Mapping[str, "Dataset"], name: str) -> dict[Split, "Dataset"]:
    """Map the splits to train, val and test; the only split of a dataset is train, unless it is val or test."""
    found: dict[Split, Dataset] = {}
    other = []
    for own_name, split_rows in rows.items():
        split = _SPLITS.get(own_name.lower())
        if split is None or split in found:
            other.append(own_name)
        else:
            found[split] = split_rows
    if not found and len(other) == 1:
        return {"train": rows[other[0]]}
    if "train" not in found:
        raise UserError(f"{name} has no split 'train', only {', '.join(map(repr, rows))}.")
    if other:
        _LOG.info("%s: ignored %s, which is not train, validation or test", name, ", ".join(map(repr, other)))
    return found


def _find_image_column(rows: "Dataset", name: str) -> str:
    from datasets import Image

    return _only(
        [column for column, feature in rows.features.items() if isinstance(feature, Image)],
        f"{name}: its columns are {_describe(rows)}. Name the column of the images: datamodule.image_column=NAME.",
    )


def _find_label_column(rows: "Dataset", name: str, image: str) -> str:
    from datasets import ClassLabel

    columns = {column: feature for column, feature in rows.features.items() if column != image}
    candidates = [column for column, feature in columns.items() if isinstance(feature, ClassLabel)]
    candidates = candidates or [column for column, feature in columns.items() if _is_label(feature)]
    if len(candidates) > 1:
        candidates = [column for column in candidates if column.lower() in _LABEL_NAMES]
    return _only(
        candidates,
        f"{name}: its columns are {_describe(rows)}. Name the column of the labels: datamodule.label_column=NAME.",
    )


def _only(candidates: Sequence[str], otherwise: str) -> str:
    if len(candidates) != 1:
        raise UserError(otherwise)
    return candidates[0]


def _check_columns(rows: "Dataset", name: str, image: str, label: str) -> None:
    from datasets import ClassLabel, Image

    for column, option in ((image, "image_column"), (label, "label_column")):
        if column not in rows.features:
            hint = did_you_mean(column, rows.features) or "."
            raise UserError(
                f"{name} has no column {column!r} (datamodule.{option}){hint} The columns are {_describe(rows)}."
            )
    feature = rows.features[image]
    # Files written without Hugging Face's types have plain bytes, or bytes and path.
    plain = getattr(feature, "dtype", None) in ("binary", "large_binary")
    if not (isinstance(feature, Image) or plain or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})):
        raise UserError(f"{name}: column {image!r} has no images; the columns are {_describe(rows)}.")
    if not (isinstance(rows.features[label], ClassLabel) or _is_label(rows.features[label])):
        raise UserError(f"{name}: column {label!r} has no labels; the columns are {_describe(rows)}.")


def _check_classes(rows: "Dataset", what: str, label: str, train: "Dataset") -> None:
    """Refuse a ClassLabel whose classes differ from those of train: its numbers would mean other classes."""
    names, known = (getattr(part_rows.features[label], "names", None) for part_rows in (rows, train))
    if names != known:
        raise UserError(
            f"{what}: the classes of column {label!r} are {', '.join(names or ['not named'])}; "
            f"in train they are {', '.join(known or ['not named'])}."
        )


def _is_label(feature: Any) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype in ("string", "large_string", "bool") or dtype.startswith(("int", "uint"))


def _describe(rows: "Dataset") -> str:
    kinds = {name: getattr(feature, "dtype", None) for name, feature in rows.features.items()}
    return ", ".join(
        f"{name} ({type(rows.features[name]).__name__ if kind in (None, 'PIL.Image.Image') else kind})"
        for name, kind in kinds.items()
    )


def _labels(rows: "Dataset", what: str, column: str) -> list[Any] | None:
    """Return the labels, or None if all are hidden."""
    values: list[Any] = rows[column][:]
    hidden = sum(value is None or (value == -1) for value in values)
    if hidden == len(values):
        _LOG.info("%s is left out: its labels are hidden", what)
        return None
    if hidden:
        raise UserError(
            f"{what}: {hidden} of {len(values)} labels in column {column!r} are -1 or empty. Remove those rows."
        )
    return values


Encode = Callable[[Sequence[Any], str], NDArray[np.int64]]


def _classes(train: "Dataset", name: str, column: str, values: Sequence[Any]) -> tuple[tuple[str, ...], Encode]:
    """Return the class names, and a function that encodes the labels of any split as class indices."""
    from datasets import ClassLabel

    feature = train.features[column]
    if isinstance(feature, ClassLabel):
        known = dict(zip(range(len(feature.names)), feature.names, strict=True))
    else:
        known = {value: str(value) for value in sorted(set(values))}
    if len(known) < 2:
        raise UserError(
            f"{name}: column {column!r} has only the class {next(iter(known.values()))!r}; a classifier needs two."
        )
    position = {value: index for index, value in enumerate(known)}

    def encode(values: Sequence[Any], what: str) -> NDArray[np.int64]:
        unknown = sorted({str(value) for value in values if value not in position})
        if unknown:
            hint = did_you_mean(unknown[0], known.values()) or "."
            raise UserError(
                f"{what}: label {unknown[0]!r} is not a class of train{hint} "
                f"The classes are {', '.join(known.values())}."
            )
        return np.array([position[value] for value in values], np.int64)

    return tuple(known.values()), encode


def _images(rows: "Dataset", what: str, column: str, targets: NDArray[np.int64], channels: Channels) -> DatasetImages:
    from datasets import Image

    digest = hashlib.blake2b(f"{column} {channels} {rows.num_rows} ".encode(), digest_size=16)
    digest.update(_content(rows).encode())
    digest.update(targets.data)
    images = rows.select_columns([column])
    if isinstance(images.features[column], Image):
        images = images.cast_column(
            column, Image(decode=False)
        )  # decoded by Opsin, so that bad images are found in every dataset
    return DatasetImages(images, targets, channels, what, digest.hexdigest())


def _content(rows: "Dataset") -> str:
    """Identify the rows without reading them, by the state of their files or the library's fingerprint."""
    files = [Path(file["filename"]) for file in rows.cache_files]
    states = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return "\n".join(states) or str(rows._fingerprint)
