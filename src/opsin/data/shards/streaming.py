"""How the images of a split are read where they lie in shards."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from opsin.data.batches import Streaming
from opsin.data.parts import Part
from opsin.data.shards.store import ShardStore

Indices = NDArray[np.int64]


def streaming(part: Part) -> Streaming | None:
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
