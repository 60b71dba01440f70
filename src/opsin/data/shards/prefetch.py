"""Streaming settings for a split whose images are in shards."""

from collections.abc import Callable, Sequence

import numpy as np

from opsin.data.loader.batch_loader import Streaming
from opsin.data.shards.sharded_store import ShardStore
from opsin.data.splitting import SplitOptions
from opsin.data.subset import Subset
from opsin.data.types import Indices
from opsin.errors import UserError
from opsin.runs.quoting import opsin_command


def streaming(subset: Subset, is_read: Callable[[], bool] = lambda: True) -> Streaming | None:
    """Return how a split is streamed, or None if its images are not in shards.

    Args:
        subset: The split.
        is_read: Whether an iteration that starts now reads the images; if not, no shards are fetched for it.
    """
    stores = [store for store in subset.stores if isinstance(store, ShardStore)]
    if not stores:
        return None
    ends = np.cumsum([len(store.images.shards) for store in stores])
    shards = [
        store.images.shard_of(rows) + before
        for (_, rows), store, before in zip(subset.by_store(), stores, [0, *ends[:-1]], strict=True)
    ]

    def prefetch(plan: Sequence[Indices]) -> Callable[[int], None]:
        prefetchers, start = [], 0
        for store in stores if is_read() else ():
            rows = [subset.index[positions] - start for positions in plan]
            prefetchers.append(store.prefetch([row[(row >= 0) & (row < len(store))] for row in rows]))
            start += len(store)

        def before_batch(step: int) -> None:
            for prefetcher in prefetchers:
                prefetcher(step)

        return before_batch

    return Streaming(np.concatenate(shards), stores[0].images.dataset.window, prefetch)


def check_folds(train: Subset, options: SplitOptions) -> None:
    """Refuse folds of a stream of more shards than its window: each fold has images in all of them.

    Raises:
        UserError: Folds of such a stream are requested.
    """
    stream = streaming(train)
    if options.num_folds is not None and stream is not None and stream.is_windowed:
        raise UserError(
            f"datamodule.num_folds={options.num_folds}: the dataset has more shards than datamodule.window="
            f"{stream.window}, so its splits are fixed when the shards are written. Write the shards of one fold: "
            f"{opsin_command('prepare-data', 'DATASET', '--shards', 'OUT')} datamodule.num_folds=... "
            "datamodule.fold=..."
        )
