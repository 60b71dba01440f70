"""What is known of shards without reading them: `opsin.json`, and of each split `rows.npz`.

    opsin.json          the facts of the dataset, and of every shard its size and digest
    train/rows.npz      of every image its class, its number in the dataset and its place in the shards
    train/index.json    litdata's own index
    train/chunk-*.bin   the shards, in litdata's format
    val/ test/          likewise

`opsin.json` is written last: where there is one, the shards are whole.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from opsin.data.shards.storage import Storage
from opsin.data.source import Channels, Split
from opsin.errors import UserError
from opsin.runs.quoting import printed_command

Indices = NDArray[np.int64]
Encoding = Literal["raw", "jpeg", "original"]

NAME = "opsin.json"
ROWS = "rows.npz"
_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        file: Its name below the shards' place, `train/chunk-0-0.bin`.
        bytes: Its size.
        images: How many it holds.
        digest: BLAKE2b of its bytes, 32 hex digits.
    """

    file: str
    bytes: int
    images: int
    digest: str


@dataclass(frozen=True)
class Fit:
    """How images were brought to the one size of their shards."""

    resize: str
    interpolation: str


@dataclass(frozen=True)
class ShardedSplit:
    """The shards of one split.

    Attributes:
        origin: Whether the dataset brought this split, or it was carved when the shards were written.
        original: Fingerprint of the dataset's images that `numbers` counts.
        rows: Digest of `rows.npz`.
        shards: In the order of the places.
    """

    origin: Literal["given", "carved"]
    original: str
    rows: str
    shards: tuple[Shard, ...]

    @property
    def bytes(self) -> int:
        """Of all its shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class Rows:
    """The images of one split, in the order of the split.

    Attributes:
        targets: Class indices ``(N,)``, int64.
        numbers: Which image of the dataset each is ``(N,)``.
        places: Where it lies, counted through all shards of the split ``(N,)``.
    """

    targets: Indices
    numbers: Indices
    places: Indices

    def pack(self) -> bytes:
        """As a file, in the smallest integers that will do."""
        file = io.BytesIO()
        arrays = {name: values.astype(np.min_scalar_type(int(values.max()))) for name, values in vars(self).items()}
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes) -> "Rows":
        """What `pack` made."""
        with np.load(io.BytesIO(content)) as arrays:
            return cls(*(arrays[name].astype(np.int64) for name in ("targets", "numbers", "places")))


@dataclass(frozen=True)
class Index:
    """The facts of a dataset in shards.

    Attributes:
        name: Of the dataset.
        classes: In the order of the targets.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width: of the images, or those at which they were meant to be served (`original`).
        mean: Of pixels in [0, 1], per channel.
        std: Likewise.
        encoding: `raw` pixels, `jpeg` of the size, or the `original` files.
        fit: How the images were brought to the size; None: they had it, or still have to be.
        splits: The shards.
    """

    name: str
    classes: tuple[str, ...]
    channels: Channels
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: Encoding
    fit: Fit | None
    splits: Mapping[Split, ShardedSplit]

    def write(self) -> bytes:
        """As `opsin.json`."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    def fingerprint(self, split: Split) -> str:
        """Changes when a byte of a split's images, their classes or their order do."""
        facts = [_VERSION, self.encoding, self.channels, self.size, asdict(self.splits[split])]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def read_index(place: Storage) -> Index:
    """The index of some shards.

    Raises:
        UserError: There is none, or it is damaged.
    """
    content = place.read(NAME)
    if content is None:
        raise UserError(
            f"{place} holds no {NAME}: there are no shards, or they were not written to their end. Write them by "
            f"{printed_command(['python', 'scripts/prepare_data.py', 'DATASET', '--shards', str(place)])}"
        )
    try:
        facts: dict[str, Any] = json.loads(content)
        if facts.pop("version") != _VERSION:
            raise UserError(f"{place}/{NAME} is of another version of Opsin: write the shards anew.")
        splits = {
            split: ShardedSplit(**{**of_split, "shards": tuple(Shard(**shard) for shard in of_split["shards"])})
            for split, of_split in facts.pop("splits").items()
        }
        fit = facts.pop("fit")
        facts |= {name: tuple(facts[name]) for name in ("classes", "size", "mean", "std")}
        return Index(**facts, fit=None if fit is None else Fit(**fit), splits=splits)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{place}/{NAME} is damaged ({error}): write the shards anew.") from error


def read_rows(place: Storage, split: Split, facts: ShardedSplit) -> Rows:
    """The rows of a split.

    Raises:
        UserError: They are missing or damaged.
    """
    name = f"{split}/{ROWS}"
    content = place.read(name)
    if content is None or digest(content) != facts.rows:
        state = "is missing" if content is None else "is not what was written"
        raise UserError(f"{name} of {place} {state}: put it there again, or write the shards anew.")
    try:
        return Rows.unpack(content)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{name} of {place} is damaged ({error}): write the shards anew.") from error


def digest(content: bytes) -> str:
    """BLAKE2b, 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
