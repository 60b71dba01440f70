"""Images in shards, which need not fit on a disk."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from opsin.data.cache.image_store_builder import cores
from opsin.data.shards.index import Index, read_index
from opsin.data.shards.s3 import StorageOptions
from opsin.data.shards.shard_cache import AHEAD
from opsin.data.shards.sharded_images import ShardedDataset, ShardImages
from opsin.data.shards.storage import Storage, open_place
from opsin.data.source import DATA_DIR, Source
from opsin.errors import UserError

_BESIDE = AHEAD + 4
"""Shards beside the window: those that are fetched ahead, those of a batch that lies across, and two of evaluation."""


def shards(
    path: str,
    data_dir: str = DATA_DIR,
    storage_options: StorageOptions | None = None,
    cache_gb: Annotated[float, Field(gt=0)] = 10.0,
    window: Annotated[int, Field(ge=1)] = 16,
    workers: Annotated[int, Field(ge=1)] | None = None,
) -> Source:
    """A dataset in shards, as `scripts/prepare_data.py DATASET --shards PATH` writes it.

    Args:
        path: A local folder, or `s3://bucket/prefix`.
        data_dir: Downloaded shards pass through its `.opsin/shards`.
        storage_options: How a bucket is reached, where boto3's environment variables and files do not say it.
        cache_gb: Of the disk that downloaded shards take, in 10^9 bytes, for each process (so each device).
        window: Shards whose images are mixed in training. No more shards than that, and the order is the store's.
        workers: Threads that decode, of each process; None: one per core of it.

    Raises:
        UserError: There are no shards, they cannot be reached, or the cache is too small for the window.
    """
    place = open_place(path, storage_options)
    index = read_index(place)
    cache_bytes = int(cache_gb * 1e9)
    if not place.local:
        _check_room(index, place, cache_bytes, window)
    library = ShardedDataset(place, index, _cache(data_dir), cache_bytes, window, workers or cores())
    splits = {split: ShardImages(library, split) for split in index.splits}
    return Source(index.name, index.classes, index.channels, index.size, index.mean, index.std, splits)


def _cache(data_dir: str) -> Path:
    return (Path(data_dir) / ".opsin" / "shards").expanduser().resolve()


def _check_room(index: Index, place: Storage, cache_bytes: int, window: int) -> None:
    """See to it that the window never has to be fetched twice."""
    sizes = sorted(shard.bytes for split in index.splits.values() for shard in split.shards)
    needed = sum(sizes[-(window + _BESIDE) :])
    if needed > cache_bytes:
        raise UserError(
            f"datamodule.cache_gb={cache_bytes / 1e9:g} is too small for datamodule.window={window} shards of {place} "
            f"and {_BESIDE} beside them: take cache_gb={needed / 1e9 + 0.001:.3f} or more, or a smaller window."
        )
