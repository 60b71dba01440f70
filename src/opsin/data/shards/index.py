"""Facts about shards that are available without reading them: `opsin.json`, and `images.npz` of each split.

    opsin.json          facts of the dataset; size and digest of every shard
    train/images.npz    class of every image, its number in the dataset and its row in the shards
    train/index.json    litdata's own index
    train/chunk-*.bin   the shards, in litdata's format
    val/ test/          the same files

`opsin.json` is written last: if it exists, the shards are complete.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from opsin.data.decode import DECODING_VERSION
from opsin.data.shards.storage import Storage
from opsin.data.types import Channels, Indices, Side, Split, SplitOrigin
from opsin.errors import UserError
from opsin.runs.quoting import opsin_command

Encoding = Literal["raw", "jpeg", "original"]

INDEX_FILE = "opsin.json"
TABLE_FILE = "images.npz"
_VERSION = f"2.{DECODING_VERSION}"
"""Version of the format and of the pixels in it."""


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        file: Name below the storage's path, such as `train/chunk-0-0.bin`.
        bytes: Size of the file.
        images: Number of images in it.
        digest: BLAKE2b of its bytes, 32 hex digits.
    """

    file: str
    bytes: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    digest: str


@dataclass(frozen=True)
class FitOptions:
    """Resize method of the images in the shards, see `Fit`."""

    resize: str
    interpolation: str


@dataclass(frozen=True)
class ShardedSplit:
    """The shards of one split.

    Attributes:
        origin: Whether the dataset provided this split, or it was split off when the shards were written.
        source_fingerprint: Fingerprint of the dataset's images that `SplitTable.source_rows` counts.
        table_digest: Digest of `images.npz`.
        shards: The files, in the order of `SplitTable.shard_rows`.
    """

    origin: SplitOrigin
    source_fingerprint: str
    table_digest: str
    shards: tuple[Shard, ...]

    @property
    def bytes(self) -> int:
        """Total size of the shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class SplitTable:
    """The images of one split, in the order of the split.

    Attributes:
        targets: Class indices ``(N,)``, int64.
        source_rows: Number of each image in the dataset ``(N,)``.
        shard_rows: Row of each image, counted through all shards of the split ``(N,)``.
    """

    targets: Indices
    source_rows: Indices
    shard_rows: Indices

    def to_bytes(self) -> bytes:
        """Return the content of `images.npz`, with the smallest integer types that suffice."""
        file = io.BytesIO()
        arrays = {name: values.astype(np.min_scalar_type(int(values.max()))) for name, values in vars(self).items()}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "SplitTable":
        """Return the table of `to_bytes`."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(*(arrays[name].astype(np.int64) for name in ("targets", "source_rows", "shard_rows")))


@dataclass(frozen=True)
class Index:
    """The facts of a sharded dataset.

    Attributes:
        name: Name of the dataset.
        classes: Class names, in the order of the targets.
        channels: 1 (gray), 3 (RGB) or another number.
        size: Height and width of the images; for `original`, the size at which the dataset is usually read.
        mean: Mean of pixels in [0, 1], per channel.
        std: Standard deviation of pixels in [0, 1], per channel.
        encoding: `raw` pixels, `jpeg` at `size`, or the `original` files.
        fit: Resize method of the images; None if they had that size or are resized when read.
        splits: The shards of each split.
    """

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    channels: Channels
    size: tuple[Side, Side]
    mean: tuple[FiniteFloat, ...]
    std: tuple[FiniteFloat, ...]
    encoding: Encoding
    fit: FitOptions | None
    splits: Mapping[Split, ShardedSplit]

    def to_json(self) -> bytes:
        """Return the content of `opsin.json`."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    def fingerprint(self, split: Split) -> str:
        """Return a digest that changes with any byte of a split's images, their classes and their order."""
        facts = [_VERSION, self.encoding, self.channels, self.size, asdict(self.splits[split])]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def read_index(storage: Storage) -> Index:
    """Read the index of a sharded dataset.

    Raises:
        UserError: It is missing or damaged.
    """
    content = storage.read(INDEX_FILE)
    if content is None:
        raise UserError(
            f"{storage} has no {INDEX_FILE}: there are no shards, or writing them was interrupted. Write them with "
            f"{opsin_command('prepare-data', 'DATASET', '--shards', str(storage))}"
        )
    try:
        facts: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise _damaged(storage, "it is not JSON") from None
    if not isinstance(facts, dict):
        raise _damaged(storage, "it is not a JSON object")
    if facts.pop("version", None) != _VERSION:
        raise UserError(f"{storage}/{INDEX_FILE} was written by another version of Opsin; write the shards again.")
    try:
        index: Index = TypeAdapter(Index).validate_python(facts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _damaged(storage, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if "train" not in index.splits:
        raise _damaged(storage, "it has no training split")
    if not len(index.mean) == len(index.std) == index.channels:
        raise _damaged(storage, f"mean and std must have {index.channels} values")
    if foreign := _foreign_name(index.splits):
        raise _damaged(storage, f"{foreign!r} is not the name of a shard")
    return index


def _foreign_name(splits: Mapping[Split, ShardedSplit]) -> str | None:
    """Return a name of a file that lies outside the folder of the shards, or None."""
    names = ((split, shard.file) for split, facts in splits.items() for shard in facts.shards)
    return next((file for split, file in names if not re.fullmatch(rf"{split}/[\w-][\w.-]*", file)), None)


def read_table(storage: Storage, split: Split, facts: ShardedSplit) -> SplitTable:
    """Read the table of a split's images.

    Raises:
        UserError: It is missing or damaged.
    """
    name = f"{split}/{TABLE_FILE}"
    content = storage.read(name)
    if content is None or digest(content) != facts.table_digest:
        state = "is missing" if content is None else "differs from the file that was written"
        raise UserError(f"{name} of {storage} {state}: copy it there again, or write the shards again.")
    try:
        return SplitTable.from_bytes(content)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} of {storage} is damaged ({error}); write the shards again.") from error


def _damaged(storage: Storage, reason: str) -> UserError:
    return UserError(f"{storage}/{INDEX_FILE} is damaged ({reason}); write the shards again.")


def digest(content: bytes) -> str:
    """Return the BLAKE2b digest of some bytes, 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
