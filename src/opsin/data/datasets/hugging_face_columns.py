"""Map a Hugging Face dataset to a source: choose columns, splits and classes."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opsin.data.decode import decode_image
from opsin.data.file_contents import FileContents
from opsin.data.fit import Fit
from opsin.data.source import Source, content_fingerprint
from opsin.data.split_names import composed, split_named
from opsin.data.types import BadImage, Channels, Split
from opsin.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger(__name__)

_LABEL_NAMES = (
    *("label", "labels", "class", "classes", "target", "targets", "category", "species", "y"),
    *("class_name", "class_label", "label_name"),
)


@dataclass(frozen=True, eq=False)
class DatasetImages:
    """The image column of a Hugging Face dataset.

    Attributes:
        rows: A dataset whose only column has encoded images: bytes, or bytes and path.
        targets: Class of each image (N,), int64.
        channels: Channels of the images that `read` returns: 1 (gray), 3 (RGB) or another number.
        name: Name for messages, such as "ylecun/mnist train".
        files: The files that hold the images; empty for a row without an image.
        fallback: Text that identifies the rows if they are in no file.
    """

    rows: "Dataset"
    targets: NDArray[np.int64]
    channels: Channels
    name: str
    files: tuple[str, ...]
    fallback: str

    def __post_init__(self) -> None:
        if self.rows.format["type"] != "custom":  # a transform of the user, which may make the encoded images
            object.__setattr__(self, "rows", self.rows.with_format(None))

    @cached_property
    def contents(self) -> FileContents:
        """The contents of the files."""
        return FileContents(self.files, tables=True)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the content of the files, of the labels, of the channels and of the rows if some are selected."""
        content = content_fingerprint(self.contents, self.targets, self.channels)
        rows = f"{content} {self.rows.column_names} {len(self.targets)} {'' if self.files else self.fallback}"
        rows += _selection(self.rows, self.files)
        return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def read(self, index: int, fit: Fit | None = None) -> NDArray[np.uint8]:
        """Decode the image of a row, ``(H, W, channels)``; raises `BadImage`."""
        return decode_image(self._value(index), self.channels, fit)

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


def _selection(rows: "Dataset", files: Sequence[str]) -> str:
    """Return text that identifies the rows that are selected of tables; empty if all are, or if the files do so.

    Image files are those of the selected rows. `datasets` writes the indices that `filter` and `shuffle` select to a
    file too.
    """
    if {file["filename"] for file in rows.cache_files}.isdisjoint(files):
        return ""
    indices = rows._indices
    in_files = indices is None or all(getattr(block, "path", None) in files for block in _blocks(indices))
    slices = [part for table in (rows.data, indices) if table is not None for part in _slices(table, files)]
    if in_files and not slices:
        return ""
    digest = hashlib.blake2b(repr(slices).encode(), digest_size=16)
    if indices is not None and not in_files:
        digest.update(np.ascontiguousarray(indices.column(0).to_numpy(), np.int64).data)
    return f" {digest.hexdigest()}"


def _slices(table: Any, files: Sequence[str]) -> list[tuple[int, Any]]:
    """Return the number of a file and the arguments of each slice of it: how `datasets` selects consecutive rows."""
    number = {file: position for position, file in enumerate(files)}
    return [
        (number.get(block.path, -1), arguments)
        for block in _blocks(table)
        for name, arguments, _ in getattr(block, "replays", None) or ()  # only tables in files have some
        if name == "slice"
    ]


def _blocks(table: Any) -> list[Any]:
    """Return the tables of `datasets` that a table is composed of."""
    return [block for blocks in getattr(table, "blocks", [[table]]) for block in blocks]


def read_splits(
    rows: Mapping[str, "Dataset"],
    name: str,
    image_column: str | None,
    label_column: str | None,
    channels: Channels,
    size: tuple[int, int],
) -> Source:
    """Return a source from the splits of a dataset; see `hugging_face` for the arguments.

    Labels that are not of type ClassLabel become classes in sorted order. Classes without any image are left out,
    and so is a split whose labels are all -1 or missing (hidden, as in a competition's test set).

    Raises:
        UserError: There are no training labels, a label is not in train, two splits mean the same, or a column is
            missing or ambiguous.
    """
    by_split = _name_splits(rows, name)
    train = by_split["train"]
    image = image_column or _find_image_column(train, name)
    label = label_column or _find_label_column(train, name, image)
    for split_rows in by_split.values():
        _check_columns(split_rows, name, image, label)
    labels = {split: _labels(by_split[split], f"{name} {split}", label) for split in by_split}
    if labels["train"] is None:
        raise UserError(f"{name}: the training labels in column {label!r} are hidden (-1 or empty).")
    known = {split: values for split, values in labels.items() if values is not None}
    classes, encode = _classes(train, name, label, known)
    splits = {
        split: _images(by_split[split], f"{name} {split}", image, encode(values, f"{name} {split}"), channels)
        for split, values in known.items()
    }
    return Source(name, classes, channels, size, mean=None, std=None, splits=splits)


def _name_splits(rows: Mapping[str, "Dataset"], name: str) -> dict[Split, "Dataset"]:
    """Map the splits to train, val and test; the only split of a dataset is train, unless it is val or test."""
    found: dict[Split, Dataset] = {}
    meanings = {own_name: split_named(own_name) for own_name in rows}
    for own_name, split in meanings.items():
        if split in found:
            both = " and ".join(repr(other) for other, meaning in meanings.items() if meaning == split)
            raise UserError(
                f"{name} has {both}, which mean the same split. Save a DatasetDict of the wanted ones to a folder "
                "(save_to_disk), and set datamodule.path to it."
            )
        if split is not None:
            found[split] = rows[own_name]
    other = [own_name for own_name, split in meanings.items() if split is None]
    if not found and len(other) == 1:
        return {"train": rows[other[0]]}
    if "train" not in found:
        raise UserError(f"{name} has no split 'train', only {', '.join(map(repr, rows))}.")
    if other:
        _LOG.info("%s: ignored %s, which is not train, validation or test", name, ", ".join(map(repr, other)))
    return found


def _find_image_column(rows: "Dataset", name: str) -> str:
    from datasets import Image

    images = [column for column, feature in rows.features.items() if isinstance(feature, Image)]
    return _only(
        images or [column for column, feature in rows.features.items() if _is_encoded(feature)],
        f"{name}: its columns are {_describe(rows)}. Name the column of the images: datamodule.image_column=NAME.",
    )


def _is_encoded(feature: Any) -> bool:
    """Return whether a column may hold image files: bytes, or bytes and path, written without the type Image."""
    plain = getattr(feature, "dtype", None) in ("binary", "large_binary")
    return plain or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})


def _find_label_column(rows: "Dataset", name: str, image: str) -> str:
    from datasets import ClassLabel

    columns = {column: feature for column, feature in rows.features.items() if column != image}
    candidates = [column for column, feature in columns.items() if isinstance(feature, ClassLabel)]
    for types in (_WORDS_AND_INTEGERS, _REALS):
        candidates = candidates or [column for column, feature in columns.items() if _dtype(feature).startswith(types)]
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
    if not (isinstance(feature, Image) or _is_encoded(feature)):
        raise UserError(f"{name}: column {image!r} has no images; the columns are {_describe(rows)}.")
    kinds = _WORDS_AND_INTEGERS + _REALS
    if not (isinstance(rows.features[label], ClassLabel) or _dtype(rows.features[label]).startswith(kinds)):
        raise UserError(f"{name}: column {label!r} has no labels; the columns are {_describe(rows)}.")


_WORDS_AND_INTEGERS = ("string", "large_string", "bool", "int", "uint")
_REALS = ("float", "double")


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _describe(rows: "Dataset") -> str:
    kinds = {name: getattr(feature, "dtype", None) for name, feature in rows.features.items()}
    return ", ".join(
        f"{name} ({type(rows.features[name]).__name__ if kind in (None, 'PIL.Image.Image') else kind})"
        for name, kind in kinds.items()
    )


def _labels(rows: "Dataset", what: str, column: str) -> list[Any] | None:
    """Return the labels, or None if all are hidden; names of classes where they are known, in their composed form."""
    values: list[Any] = rows.with_format(None)[column][:]
    hidden = sum(_is_hidden(value) for value in values)
    if hidden == len(values):
        _LOG.info("%s is left out: its labels are hidden", what)
        return None
    if hidden:
        raise UserError(
            f"{what}: {hidden} of {len(values)} labels in column {column!r} are -1 or empty. Remove those rows."
        )
    names = getattr(rows.features[column], "names", None)
    if names is not None:
        if outside := [value for value in values if not 0 <= value < len(names)]:
            raise UserError(f"{what}: label {outside[0]} in column {column!r} is not one of its {len(names)} classes.")
        return [composed(names[value]) for value in values]
    if fraction := next((value for value in values if isinstance(value, float) and not value.is_integer()), None):
        raise UserError(f"{what}: {fraction} in column {column!r} is not a class; a class is a whole number or a name.")
    return [
        composed(value) if isinstance(value, str) else int(value) if isinstance(value, float) else value
        for value in values
    ]


def _is_hidden(value: Any) -> bool:
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or value == -1 or value != value  # NaN


Encode = Callable[[Sequence[Any], str], NDArray[np.int64]]


def _classes(
    train: "Dataset", name: str, column: str, labels: Mapping[Split, Sequence[Any]]
) -> tuple[tuple[str, ...], Encode]:
    """Return the class names, and a function that encodes the labels of any split as class indices."""
    names = getattr(train.features[column], "names", None)
    if names is None:
        known = {value: str(value) for value in sorted(set(labels["train"]))}
    else:
        used = {value for values in labels.values() for value in values}
        known = {found: found for found in map(composed, names) if found in used}
        if len(known) < len(names):
            _LOG.info(
                "%s: %d of the %d classes of column %r have no images",
                name,
                len(names) - len(known),
                len(names),
                column,
            )
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

    fallback = str(rows._fingerprint)
    images = rows.select_columns([column])
    if isinstance(images.features[column], Image):
        images = images.cast_column(
            column, Image(decode=False)
        )  # decoded by Opsin, so that bad images are found in every dataset
    return DatasetImages(images, targets, channels, what, _files(images, column), fallback)


def _files(images: "Dataset", column: str) -> tuple[str, ...]:
    """Return the files that hold the images: the image files that the rows name, else the files of the table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = images.data.column(column)
    if pa.types.is_struct(values.type) and len(values):
        without_bytes = pc.is_null(pc.struct_field(values, "bytes"))
        if pc.all(without_bytes).as_py():
            paths = images.with_format("arrow")[:].column(column)
            return tuple(path or "" for path in pc.struct_field(paths, "path").to_pylist())
    return tuple(file["filename"] for file in images.cache_files)
