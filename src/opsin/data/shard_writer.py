"""Write any dataset as shards in litdata's format, with at most one shard on the local disk at a time."""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opsin.data.datamodule import ImageDataModule
from opsin.data.normalization import MeanStd
from opsin.data.progress import progress
from opsin.data.shards.index import (
    INDEX_FILE,
    TABLE_FILE,
    Encoding,
    FitOptions,
    Index,
    Shard,
    ShardedSplit,
    SplitTable,
    digest,
)
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.storage import LocalStorage, Storage, StorageOptions, open_storage
from opsin.data.source import ArrayImages, EncodedImages
from opsin.data.statistics import channel_statistics
from opsin.data.subset import Subset
from opsin.data.types import SPLITS, Indices, Split
from opsin.errors import UserError
from opsin.runs.disk_errors import explained_disk_errors
from opsin.visualization.images import Pixels

MAX_SHARD_BYTES = 2 * 10**9
"""Largest `ShardOptions.shard_bytes`: litdata's format counts the bytes of a shard with 32 bits."""

_BLOCK = 256  # images that are encoded together


@dataclass(frozen=True)
class ShardOptions:
    """Options of the shards.

    Attributes:
        encoding: `raw` keeps the pixels of an image store; `jpeg` takes a tenth of their space, with nearly the same
            pixels; `original` keeps the files, which are decoded and resized at every read.
        shard_bytes: Maximum size of a shard, unless a single image is larger; at most `MAX_SHARD_BYTES`.
        quality: JPEG quality, 1 to 100.
    """

    encoding: Encoding = "raw"
    shard_bytes: int = 64 * 10**6
    quality: int = 90


def write_shards(
    data: ImageDataModule, out: str, options: ShardOptions, storage_options: StorageOptions | None = None
) -> Index:
    """Write train, val and test of a datamodule as shards; the images of train in one random order.

    Args:
        data: Decides the images, their size and the splits; its `keeps_decoded` is False.
        out: A local folder, or a bucket: `s3://`, `az://` or `gs://BUCKET/PREFIX`.
        options: Options of the shards.
        storage_options: Connection options of a bucket.

    Returns:
        The index, which is written last.

    Raises:
        UserError: `out` already holds shards or cannot be written to, the dataset has no files to keep, or the shards
            are too large.
    """
    if options.shard_bytes > MAX_SHARD_BYTES:
        raise UserError(
            f"A shard of {options.shard_bytes / 1e6:,.0f} MB is too large for litdata's format: choose at most "
            f"{MAX_SHARD_BYTES // 10**6:,} MB."
        )
    storage = open_storage(out, storage_options)
    if storage.read(INDEX_FILE) is not None:
        raise UserError(f"{storage} already holds shards: choose another place, or delete them.")
    writer = _litdata_writer()
    data.setup()
    source, subsets = data.source, {split: data.subset(split) for split in SPLITS}
    if options.encoding == "original" and not all(
        isinstance(images, EncodedImages) for images in source.splits.values()
    ):
        raise UserError(f"The images of {source.name} are arrays, not files: write them with --encoding raw.")
    if options.encoding == "jpeg" and source.channels not in (1, 3):
        raise UserError(f"JPEG cannot hold images of {source.channels} channels: write them with --encoding raw.")
    stated = MeanStd(source.mean, source.std)
    mean, std = (
        value * source.channels if len(value) == 1 else value
        for value in stated.measured(lambda: channel_statistics(subsets["train"], data.cache_dir))
    )
    random = np.random.RandomState(data.split_options.seed)  # its stream never changes (NEP 19)
    splits: dict[Split, ShardedSplit] = {}
    for split, subset in subsets.items():
        order = random.permutation(len(subset)) if split == "train" else np.arange(len(subset))
        splits[split] = _write_split(writer, storage, split, subset, order, options)
    fits = all(isinstance(i, ArrayImages) and i.pixels.shape[1:3] == data.image_size for i in source.splits.values())
    fit = None if fits or options.encoding == "original" else FitOptions(data.resize, data.interpolation)
    index = Index(
        source.name, source.classes, source.channels, data.image_size, mean, std, options.encoding, fit, splits
    )
    _put(storage, INDEX_FILE, index.to_json())
    return index


def _write_split(
    writer: Callable[[str, int], Any],
    storage: Storage,
    split: Split,
    subset: Subset,
    order: Indices,
    options: ShardOptions,
) -> ShardedSplit:
    shards: list[Shard] = []
    targets = subset.targets

    def finish(file: str) -> None:
        path, name = Path(file), f"{split}/{Path(file).name}"
        shards.append(Shard(name, path.stat().st_size, len(OpenShard(path)), digest(path.read_bytes())))
        storage.put(path, name)

    with _temporary_folder(storage) as folder, progress(len(subset), f"writing {split}") as advance:
        binary = writer(str(folder), options.shard_bytes)
        for number, image in enumerate(_encoded(subset, order, options)):
            if file := binary.add_item(number, {"label": int(targets[order[number]]), "image": image}):
                finish(file)
            advance(1)
        for file in binary.done():
            finish(file)
        binary.merge(1)
        storage.put(folder / "index.json", f"{split}/index.json")
    shard_rows = np.empty(len(order), np.int64)
    shard_rows[order] = np.arange(len(order))
    (store, rows), *more = subset.by_store()
    fingerprint, source_rows = store.numbered(rows)
    if more:  # a fold of two splits of the dataset: rows are counted through both
        ((other, other_rows),) = more
        fingerprint, source_rows = f"{fingerprint} {other.numbered(other_rows)[0]}", subset.index
    table = SplitTable(targets, source_rows, shard_rows).to_bytes()
    _put(storage, f"{split}/{TABLE_FILE}", table)
    return ShardedSplit(subset.origin, fingerprint, digest(table), tuple(shards))


def _encoded(subset: Subset, order: Indices, options: ShardOptions) -> Iterator[Any]:
    """Yield each image as it is written: pixels ``(H, W, C)``, or the bytes of a file ``(B,)``, uint8.

    Both are arrays: litdata writes items of plain `bytes` in a format whose images cannot be read one at a time.
    """
    with ThreadPoolExecutor(thread_name_prefix="encode") as pool:
        for start in range(0, len(order), _BLOCK):
            positions = order[start : start + _BLOCK]
            if options.encoding == "original":
                yield from pool.map(lambda position: _file(subset, int(position)), positions)
            elif options.encoding == "raw":
                yield from subset.read(positions)
            else:
                yield from pool.map(lambda pixels: _jpeg(pixels, options.quality), subset.read(positions))


def _file(subset: Subset, position: int) -> Pixels:
    store, row = subset.find(position)
    assert isinstance(store.images, EncodedImages)
    return np.frombuffer(store.images.encoded(int(store.kept[row])), np.uint8)


def _jpeg(pixels: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, "JPEG", quality=quality, optimize=True)
    return np.frombuffer(file.getvalue(), np.uint8)


@contextmanager
def _temporary_folder(storage: Storage) -> Iterator[Path]:
    """Create a folder for the shard being written; for a local storage, on the disk where it stays.

    Raises:
        UserError: It cannot be created, or its disk fails or is full during the block.
    """
    if not isinstance(storage, LocalStorage):
        created = tempfile.TemporaryDirectory(prefix="opsin-shards-")
    else:
        try:
            storage.root.mkdir(parents=True, exist_ok=True)
            created = tempfile.TemporaryDirectory(prefix=".writing-", dir=storage.root)
        except OSError as error:
            raise UserError(f"Shards cannot be written to {storage}: {error.strerror}.") from error
    with created as folder, explained_disk_errors(folder=Path(folder).parent):
        yield Path(folder)


def _put(storage: Storage, name: str, content: bytes) -> None:
    with _temporary_folder(storage) as folder:
        file = folder / "file"
        file.write_bytes(content)
        storage.put(file, name)


def _litdata_writer() -> Callable[[str, int], Any]:
    """Return a function that creates litdata's writer for a folder and a shard size in bytes."""
    try:
        from litdata.streaming.item_loader import PyTreeLoader
        from litdata.streaming.writer import BinaryWriter
    except ImportError as error:
        raise UserError(
            "Writing shards needs the package litdata: python -m pip install 'opsin[streaming]'."
        ) from error
    return lambda folder, size: BinaryWriter(folder, chunk_bytes=size, item_loader=PyTreeLoader())


def summary_lines(index: Index) -> Sequence[str]:
    """Describe what was written, one line per split."""
    return [
        f"{split:5} {len(facts.shards):5,} shards of up to {max(shard.bytes for shard in facts.shards) / 1e6:,.1f} MB, "
        f"{facts.bytes / sum(shard.images for shard in facts.shards):,.0f} bytes per image"
        for split, facts in index.splits.items()
    ]
