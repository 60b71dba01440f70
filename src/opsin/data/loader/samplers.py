"""The order of images in a training epoch, as a function of (seed, epoch)."""

from typing import Literal

import numpy as np

from opsin.data.types import Indices

Sampler = Literal["shuffle", "balanced", "fixed"]


def shuffled(targets: Indices, sampler: Sampler, seed: int, epoch: int) -> Indices:
    """Return positions in random order, for images with random access.

    Args:
        targets: Class indices ``(N,)``.
        sampler: `shuffle` has every image once; `balanced` draws N images with replacement, each class equally
            likely; `fixed` repeats the first epoch's order.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.

    Returns:
        Positions ``(N,)``, int64.
    """
    random = np.random.default_rng([seed, 0 if sampler == "fixed" else epoch])
    if sampler != "balanced":
        return random.permutation(len(targets))
    by_class = np.argsort(targets, kind="stable")
    _, starts, counts = np.unique(targets[by_class], return_index=True, return_counts=True)
    drawn = random.integers(len(counts), size=len(targets))
    order: Indices = by_class[starts[drawn] + random.integers(counts[drawn])]
    return order


def shard_windowed(shards: Indices, window: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1) -> Indices:
    """Return the positions of one process in an order that needs few shards at a time, each once.

    The shards are shuffled every epoch and divided among the processes. Each image of the j-th shard gets a sort key
    drawn uniformly from [j, j + window): so images of about `window` shards are mixed at any time, and shards are
    loaded and dropped one by one.

    Args:
        shards: Number ``(N,)`` of the shard that holds each image.
        window: Number of shards whose images are mixed.
        seed: With the epoch, decides the order.
        epoch: Counted from 0.
        rank: This process.
        world_size: Number of processes.

    Returns:
        Positions ``(N // world_size,)``, int64; over all processes every image at most once.
    """
    random = np.random.default_rng([seed, epoch])
    numbers, inverse = np.unique(shards, return_inverse=True)
    rank_of_shard = random.permutation(len(numbers))[inverse]  # of each image's shard in this epoch
    by_shard = np.argsort(rank_of_shard, kind="stable")
    share = np.array_split(by_shard, world_size)[rank]
    keys = rank_of_shard[share] + window * random.random(len(shards))[share]
    order: Indices = share[np.argsort(keys, kind="stable")]
    return order[: len(shards) // world_size]
