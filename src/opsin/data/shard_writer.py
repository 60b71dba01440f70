"""The writing of shards: from any dataset, in litdata's format, never more than one of them on the local disk."""

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opsin.data.cache.files import progress
from opsin.data.datamodule import ImageDataModule
from opsin.data.shards.index import NAME, ROWS, Encoding, Fit, Index, Rows, Shard, ShardedSplit, digest
from opsin.data.shards.reader import OpenShard
from opsin.data.shards.s3 import StorageOptions
from opsin.data.shards.storage import LocalStorage, Storage, open_place
from opsin.data.source import ArrayImages, EncodedImages, Split
from opsin.data.statistics import channel_statistics
from opsin.data.subset import Subset
from opsin.errors import UserError

Indices = NDArray[np.int64]

SPLITS: tuple[Split, ...] = get_args(Split)

_BLOCK = 256  # images that are encoded together


@dataclass(frozen=True)
class Form:
    """What is written.

    Attributes:
        encoding: `raw` keeps the pixels that a store would serve; `jpeg` is a tenth of that and as good as the same;
            `original` are the files themselves, for any size, decoded whenever they are read.
        shard_bytes: Of a file, at most.
        quality: Of JPEG, 1 to 100.
    """

    encoding: Encoding = "raw"
    shard_bytes: int = 64 * 10**6
    quality: int = 90


def write_shards(data: ImageDataModule, out: str, form: Form, options: StorageOptions | None = None) -> Index:
    """Write train, val and test of a datamodule as shards; the images of train in a random order, once for all.

    Args:
        data: Decides the images, their size and the splits; it must decode in passing.
        out: A local folder, or `s3://bucket/prefix`.
        form: What is written.
        options: How a bucket is reached.

    Returns:
        The index, which was written last.

    Raises:
        UserError: There are shards already, they cannot be written, or the dataset has no files to keep.
    """
    place = open_place(out, options)
    if place.read(NAME) is not None:
        raise UserError(f"{place} holds shards already: name another place, or delete them there.")
    writer = _litdata_writer()
    data.setup()
    source, parts = data.source, {split: data.part(split) for split in SPLITS}
    if form.encoding == "original" and not all(isinstance(images, EncodedImages) for images in source.splits.values()):
        raise UserError(f"The images of {source.name} are arrays and no files: write them with --encoding raw.")
    mean, std = source.mean, source.std
    if mean is None or std is None:
        measured = channel_statistics(parts["train"], data.cache_dir)
        mean, std = mean or measured[0], std or measured[1]
    random = np.random.RandomState(data.division.seed)  # whose stream is promised never to change
    splits: dict[Split, ShardedSplit] = {}
    for split, part in parts.items():
        order = random.permutation(len(part)) if split == "train" else np.arange(len(part))
        splits[split] = _write_split(writer, place, split, part, order, form)
    ready = all(isinstance(i, ArrayImages) and i.pixels.shape[1:3] == data.image_size for i in source.splits.values())
    fit = None if ready or form.encoding == "original" else Fit(data.resize, data.interpolation)
    index = Index(source.name, source.classes, source.channels, data.image_size, mean, std, form.encoding, fit, splits)
    _put(place, NAME, index.write())
    return index


def _write_split(
    writer: Callable[[str, int], Any], place: Storage, split: Split, part: Subset, order: Indices, form: Form
) -> ShardedSplit:
    shards: list[Shard] = []
    targets = part.targets

    def finish(file: str) -> None:
        path, name = Path(file), f"{split}/{Path(file).name}"
        shards.append(Shard(name, path.stat().st_size, len(OpenShard(path)), digest(path.read_bytes())))
        place.put(path, name)

    with _workplace(place) as folder, progress(len(part), f"writing {split}") as advance:
        binary = writer(folder, form.shard_bytes)
        for number, image in enumerate(_encoded(part, order, form)):
            if file := binary.add_item(number, {"label": int(targets[order[number]]), "image": image}):
                finish(file)
            advance(1)
        for file in binary.done():
            finish(file)
        binary.merge(1)
        place.put(Path(folder) / "index.json", f"{split}/index.json")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    (store, rows), *more = part.by_store()
    original, numbers = store.images.fingerprint, store.kept[rows]
    if more:  # a fold of two splits of the dataset: known by where it lies in both, laid end to end
        original, numbers = f"{original} {more[0][0].images.fingerprint}", part.index
    packed = Rows(targets, numbers, places).pack()
    _put(place, f"{split}/{ROWS}", packed)
    return ShardedSplit(part.origin, original, digest(packed), tuple(shards))


def _encoded(part: Subset, order: Indices, form: Form) -> Iterator[Any]:
    """Each image as it is written: pixels ``(H, W, C)``, or the bytes of a file ``(B,)``, uint8.

    Arrays both: items of plain `bytes` litdata lays out in another way, in which no image can be read alone.
    """
    with ThreadPoolExecutor(thread_name_prefix="encode") as pool:
        for start in range(0, len(order), _BLOCK):
            positions = order[start : start + _BLOCK]
            if form.encoding == "original":
                yield from pool.map(lambda position: _file(part, int(position)), positions)
            elif form.encoding == "raw":
                yield from part.read(positions)
            else:
                yield from pool.map(lambda pixels: _jpeg(pixels, form.quality), part.read(positions))


def _file(part: Subset, position: int) -> NDArray[np.uint8]:
    store, row = part.find(position)
    assert isinstance(store.images, EncodedImages)
    return np.frombuffer(store.images.encoded(int(store.kept[row])), np.uint8)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, "JPEG", quality=quality, optimize=True)
    return np.frombuffer(file.getvalue(), np.uint8)


def _workplace(place: Storage) -> tempfile.TemporaryDirectory[str]:
    """A folder for the shard that is being written: on the disk where it stays, if it stays here."""
    if not isinstance(place, LocalStorage):
        return tempfile.TemporaryDirectory(prefix="opsin-shards-")
    try:
        place.root.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".writing-", dir=place.root)
    except OSError as error:
        raise UserError(f"Shards cannot be written to {place}: {error.strerror}.") from error


def _put(place: Storage, name: str, content: bytes) -> None:
    with _workplace(place) as folder:
        file = Path(folder) / "file"
        file.write_bytes(content)
        place.put(file, name)


def _litdata_writer() -> Callable[[str, int], Any]:
    """Makes litdata's writer for a folder and the bytes of a shard."""
    try:
        from litdata.streaming.item_loader import PyTreeLoader
        from litdata.streaming.writer import BinaryWriter
    except ImportError as error:
        raise UserError(
            "Writing shards needs the package litdata: python -m pip install 'opsin[streaming]'."
        ) from error
    return lambda folder, size: BinaryWriter(folder, chunk_bytes=size, item_loader=PyTreeLoader())


def told(index: Index) -> Sequence[str]:
    """What was written, a line for each split."""
    return [
        f"{split:5} {len(facts.shards):5,} shards of up to {max(shard.bytes for shard in facts.shards) / 1e6:,.1f} MB, "
        f"{facts.bytes / sum(shard.images for shard in facts.shards):,.0f} bytes per image"
        for split, facts in index.splits.items()
    ]
