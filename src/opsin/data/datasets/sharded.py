"""A dataset in shards, in a local folder or a bucket; it need not fit on the disk."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from opsin.data.cache.files import cache_folder
from opsin.data.options import DATA_DIR
from opsin.data.shards.index import Index, read_index
from opsin.data.shards.shard_cache import AHEAD
from opsin.data.shards.sharded_images import ShardedDataset, ShardImages
from opsin.data.shards.storage import Storage, StorageOptions, open_storage
from opsin.data.source import Source
from opsin.errors import UserError
from opsin.runs.cpu_cores import available_cores

_BESIDE = AHEAD + 4
"""Shards cached besides the window: prefetched ones, two of a batch across shards, and two of evaluation."""


def shards(
    path: str,
    data_dir: str = DATA_DIR,
    storage_options: StorageOptions | None = None,
    cache_gb: Annotated[float, Field(gt=0, le=1e9)] = 10.0,
    window: Annotated[int, Field(ge=1)] = 16,
    workers: Annotated[int, Field(ge=1)] | None = None,
) -> Source:
    """Read a sharded dataset that `opsin prepare-data DATASET --shards PATH` wrote.

    Args:
        path: A local folder, or a bucket: `s3://`, `az://` or `gs://BUCKET/PREFIX`.
        data_dir: Downloaded shards are cached in its `.opsin/shards`.
        storage_options: Connection options of a bucket that its service's own variables and files do not define.
        cache_gb: Disk space for downloaded shards, in 10^9 bytes, per process (so per device).
        window: Number of shards whose images are mixed in training. With at most that many shards, the order equals
            that of an unsharded dataset.
        workers: Decoding threads per process; None for one per core.

    Raises:
        UserError: There are no shards, they cannot be reached, or the cache is too small for the window.
    """
    storage = open_storage(path, storage_options)
    index = read_index(storage)
    cache_bytes = int(cache_gb * 1e9)
    if not storage.local:
        _check_room(index, storage, cache_bytes, window)
    dataset = ShardedDataset(storage, index, _cache_dir(data_dir), cache_bytes, window, workers or available_cores())
    splits = {split: ShardImages(dataset, split) for split in index.splits}
    return Source(index.name, index.classes, index.channels, index.size, index.mean, index.std, splits)


def _cache_dir(data_dir: str) -> Path:
    return cache_folder(data_dir, "shards").resolve()


def _check_room(index: Index, storage: Storage, cache_bytes: int, window: int) -> None:
    """Check that no shard of a window has to be fetched twice."""
    sizes = sorted(shard.bytes for split in index.splits.values() for shard in split.shards)
    needed = sum(sizes[-(window + _BESIDE) :])
    if needed > cache_bytes:
        raise UserError(
            f"datamodule.cache_gb={cache_bytes / 1e9:g} is too small: the cache must hold datamodule.window={window} "
            f"+ {_BESIDE} shards of {storage}. Set cache_gb={needed / 1e9 + 0.001:.3f} or more, or a smaller window."
        )
