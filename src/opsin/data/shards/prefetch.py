"""How the images of a split are read where they lie in shards."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from opsin.data.loader.batch_loader import Streaming
from opsin.data.shards.sharded_store import ShardStore
from opsin.data.subset import SplitOptions, Subset
from opsin.errors import UserError

Indices = NDArray[np.int64]


def streaming(part: Subset) -> Streaming | None:
    """How a split is streamed; None: its images are at hand."""
    stores = [store for store in part.stores if isinstance(store, ShardStore)]
    if not stores:
        return None
    ends = np.cumsum([len(store.images.shards) for store in stores])
    shards = [
        store.images.shard_of(rows) + before
        for (_, rows), store, before in zip(part.by_store(), stores, [0, *ends[:-1]], strict=True)
    ]

    def follow(plan: Sequence[Indices]) -> Callable[[int], None]:
        followers, start = [], 0
        for store in stores:
            rows = [part.index[positions] - start for positions in plan]
            followers.append(store.follow([row[(row >= 0) & (row < len(store))] for row in rows]))
            start += len(store)

        def come_to(step: int) -> None:
            for follower in followers:
                follower(step)

        return come_to

    return Streaming(np.concatenate(shards), stores[0].images.library.window, follow)


def check_folds(train: Subset, division: SplitOptions) -> None:
    """Refuse folds of a stream whose shards must come and go: every fold has images in all of them.

    Raises:
        UserError: So it is.
    """
    read = streaming(train)
    if division.num_folds is not None and read is not None and read.one_by_one:
        raise UserError(
            f"datamodule.num_folds={division.num_folds}: the images lie in more shards than datamodule.window="
            f"{read.window}, divided as they were written. Write the shards of a fold by scripts/prepare_data.py "
            "DATASET --shards OUT datamodule.num_folds=... datamodule.fold=..."
        )
